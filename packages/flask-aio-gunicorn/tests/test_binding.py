"""Where gunicorn listens, and what it is told to serve."""

from __future__ import annotations

import http.client
import re
import socket
import sys

import pytest

HANG = 60


def get(sock, path="/coroutine"):
    """Make a request over an open connection; return status and body."""
    with sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())
        with http.client.HTTPResponse(sock) as response:
            response.begin()
            return response.status, response.read()


def connect_unix(path):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(HANG)
    sock.connect(str(path))
    return sock


# Sockets


def test_several_addresses_at_once(gunicorn, tmp_path):
    """TCP, a second port and a unix socket are served by the same worker, and end with it."""
    path = tmp_path / "s"
    server = gunicorn("-b", "127.0.0.1:0", "-b", "unix:s")
    assert len(server.addresses) == 3
    ports = [int(address.rpartition(":")[2]) for address in server.addresses[:2]]
    assert ports[0] != ports[1]
    answers = [get(socket.create_connection(("127.0.0.1", port), HANG)) for port in ports]
    answers.append(get(connect_unix(path)))
    assert [status for status, _ in answers] == [200, 200, 200]
    assert len({body for _, body in answers}) == 1, "different workers or threads"
    assert b"REMOTE_PORT" not in get(connect_unix(path), "/environ")[1]
    assert server.stop() == 0
    assert not path.exists()
    for port in ports:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), HANG)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_inherited_socket(gunicorn, tmp_path, family):
    """A socket that somebody else has opened is served by its file descriptor."""
    path = str(tmp_path / "s")
    with socket.socket(family) as listening:
        listening.bind(path if family == socket.AF_UNIX else ("127.0.0.1", 0))
        listening.listen()
        fd = listening.fileno()
        server = gunicorn(bind=f"fd://{fd}", pass_fds=[fd])
        if family == socket.AF_UNIX:
            client = connect_unix(path)
        else:
            assert server.port == listening.getsockname()[1]
            client = server.connect()
        assert get(client)[0] == 200
        assert server.stop() == 0


#: Does what systemd does for a unit with a socket: hands it over as descriptor 3.
ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-m", "gunicorn", *sys.argv[2:]])
"""


def test_socket_from_systemd(gunicorn):
    """A socket that systemd has opened is served, and outlives the server."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        fd = listening.fileno()
        address = listening.getsockname()
        for _ in range(2):
            server = gunicorn(
                bind=None, pass_fds=[fd], command=(sys.executable, "-c", ACTIVATE, str(fd))
            )
            assert server.port == address[1]
            assert get(server.connect())[0] == 200
            assert server.stop() == 0
        socket.create_connection(address, HANG).close()


def test_reuse_port(gunicorn):
    """With --reuse-port each worker opens a listening socket of its own, and serves it."""
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))  # It does not listen: it only keeps the port.
        address = reserved.getsockname()
        server = gunicorn(
            "--reuse-port",
            "-w",
            "2",
            bind=f"127.0.0.1:{address[1]}",
            app="""
import os
from flask import Flask
app = Flask(__name__)

@app.get("/")
async def index():
    return str(os.getpid())
""",
            config="""
def post_worker_init(worker):
    worker.log.info("sockets: %s", len(worker.sockets))
""",
            ready=False,
        )
        server.wait_for("sockets: 1", count=2)
        # The system spreads connections by their ports: sooner or later each worker gets one.
        pids = set()
        for _ in range(1000):
            try:
                status, body = get(socket.create_connection(address, HANG), "/")
            except ConnectionError:  # A worker that does not listen yet, or no more.
                continue
            assert status == 200
            pids.add(int(body))
            if len(pids) == 2:
                break
        assert pids == set(server.workers())
        assert server.stop() == 0


# What is served

FACTORIES = """
from flask import Flask
from flask_aio_core import AioHTTP

def create_app(name="factory"):
    app = Flask(__name__)

    @app.get("/")
    async def index():
        return name

    return app

def create_aio_app(name="aio"):
    app = create_app(name)
    AioHTTP(app)
    return app

application = create_app("application")
class deployed:
    app = application
"""


@pytest.mark.parametrize(
    ("name", "served"),
    [
        ("app", "application"),
        ("app:create_app()", "factory"),
        ("app:create_aio_app()", "aio"),
        ("app:create_aio_app(name='argument')", "argument"),
    ],
)
def test_names_and_factories(gunicorn, name, served):
    """An app or a factory is named as for gunicorn, whether it has the extension or not."""
    server = gunicorn(app=FACTORIES, name=name)
    response = server.get("/")
    assert (response.status, response.text) == (200, served)


REFUSED = """
import sys
from aiohttp import web
from flask import Flask

app = Flask(__name__)

class Middleware:
    def __init__(self, wsgi):
        self.wsgi = wsgi

    def __call__(self, environ, start_response):
        return self.wsgi(environ, start_response)

wrapped = Middleware(app.wsgi_app)
aiohttp_app = web.Application()

def create_nothing():
    return None

def exits():
    sys.exit("no licence")
"""


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (
            "app:wrapped",
            r"AioWorker serves a Flask app, but 'app:wrapped' is <app.Middleware object"
            r" .*app\.wsgi_app = Middleware\(app\.wsgi_app\)",
        ),
        (
            "app:aiohttp_app",
            r"AioWorker serves a Flask app, but 'app:aiohttp_app' is <Application"
            r" .*-k aiohttp\.worker\.GunicornWebWorker",
        ),
        ("app:create_nothing()", "Failed to find application object: 'create_nothing\\(\\)'"),
        ("app:missing", "Failed to find attribute 'missing' in 'app'"),
        ("app:exits()", "The app ended the process at import: 'no licence'"),
    ],
)
def test_what_is_no_flask_app_ends_the_master(gunicorn, name, line):
    """What cannot be served is refused once, in one line, and the master ends with status 4."""
    server = gunicorn(app=REFUSED, name=name, ready=False)
    assert server.wait() == 4
    assert server.output.count("Booting worker") == 1
    assert server.output.count("Reason: App failed to load.") == 1
    assert "Traceback" not in server.output
    server.wait_for(re.compile(line))
