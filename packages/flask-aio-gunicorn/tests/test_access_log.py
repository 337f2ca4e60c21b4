"""The access log: gunicorn's own, in gunicorn's format."""

from __future__ import annotations

import base64
import http.client
import re
import signal
import socket

import pytest

APP = """
import asyncio
import io
import logging


from aiohttp import web
from flask import Flask, Response, redirect, request, send_file
from flask_aio_core import AioHTTP

app = Flask(__name__)
app.config["AIO_CANCEL_ON_DISCONNECT"] = True
AioHTTP(app)


@app.get("/coroutine")
async def coroutine():
    await asyncio.sleep(float(request.args.get("seconds", 0)))
    return "coroutine"


@app.route("/synchronous", methods=["GET", "POST"])
def synchronous():
    return f"synchronous {len(request.get_data())}"


@app.get("/streamed")
async def streamed():
    for number in range(10):
        yield b"x" * 1000
        await asyncio.sleep(0)


@app.get("/file")
def file():
    return send_file("content.txt", mimetype="text/plain")


@app.get("/redirect")
async def redirected():
    return redirect("/coroutine")


@app.get("/wait")
async def wait():
    print("waiting", flush=True)
    await asyncio.sleep(3600)


@app.get("/logging/<marker>")
def logged(marker):
    app.logger.error("app.logger %s", marker)
    print("wsgi.errors", marker, file=request.environ["wsgi.errors"])
    logging.getLogger("flask_aio_core").error("library %s", marker)
    return "logged"


async def native(request):
    return web.Response(text="native", headers={"X-Native": "yes"})


app.aiohttp_app.router.add_get("/native", native)
"""

#: Every atom, so that a line can be taken apart again.
ATOMS = {
    **{name: f"%({name})s" for name in "hlutrsmUqHbBfaTDMLp"},
    "id": "%({x-request-id}i)s",
    "type": "%({content-type}o)s",
    "method": "%({request_method}e)s",
    "unknown": "%({x-nobody-sent-it}i)s",
    "nothing": "%({x-nobody-sent-it}o)s",
    "missing": "%({x-nobody-set-it}e)s",
    "other": "%(no-such-atom)s",
}
FORMAT = "|".join(f"{name}={atom}" for name, atom in ATOMS.items())


def _lines(path):
    """The entries of a log file in our format, the newest last."""
    entries = [
        dict(part.split("=", 1) for part in line.split("|")) for line in _text(path).splitlines()
    ]
    assert all(list(entry) == list(ATOMS) for entry in entries)
    return entries


def _text(path):
    return path.read_text() if path.exists() else ""


@pytest.fixture(scope="module")
def server(shared_gunicorn):
    """A server that logs every atom to a file."""
    return shared_gunicorn(
        "--access-logfile",
        "access.log",
        "--access-logformat",
        FORMAT,
        app=APP,
        files={"content.txt": "c" * 5000},
    )


@pytest.fixture
def entry_of(server, wait_until):
    """Wait for the entry of a request in the log."""

    def find(name):
        file = server.cwd / "access.log"
        wait_until(lambda: re.search(rf"id={name}\|.*\n", _text(file)))
        (entry,) = [entry for entry in _lines(file) if entry["id"] == name]
        return entry

    return find


@pytest.fixture
def logged(server, entry_of):
    """Make a request and return it with its entry in the log."""

    def log(method, path, body=None, *, name, **headers):
        response = server.request(method, path, body, X_Request_Id=name, **headers)
        return response, entry_of(name)

    return log


def test_every_atom(server, logged):
    """Each atom says what it says in gunicorn; one that is not known is a hyphen."""
    response, entry = logged(
        "GET", "/coroutine?a=1&b=%20", name="atoms", Referer="http://there/", User_Agent="Me/1"
    )
    assert response.text == "coroutine"
    duration = re.fullmatch(r"(\d+)\.(\d{6})", entry.pop("L"))
    assert duration is not None
    microseconds = int(duration[1]) * 1_000_000 + int(duration[2])
    assert microseconds > 0
    assert int(entry.pop("D")) == microseconds
    assert int(entry.pop("M")) == microseconds // 1000
    assert int(entry.pop("T")) == microseconds // 1_000_000
    assert re.fullmatch(r"\[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\]", entry.pop("t"))
    assert entry.pop("p") == f"<{server.workers()[0]}>"
    assert entry == {
        "h": "127.0.0.1",
        "l": "-",
        "u": "-",
        "r": "GET /coroutine?a=1&b=%20 HTTP/1.1",
        "s": "200",
        "m": "GET",
        "U": "/coroutine",
        "q": "a=1&b=%20",
        "H": "HTTP/1.1",
        "b": "9",
        "B": "9",
        "f": "http://there/",
        "a": "Me/1",
        "id": "atoms",
        "type": "text/html; charset=utf-8",
        "method": "GET",
        "unknown": "-",
        "nothing": "-",
        "missing": "-",
        "other": "-",
    }


def test_duration(logged):
    """The duration is that of the whole request."""
    _, entry = logged("GET", "/coroutine?seconds=1.05", name="duration")
    assert int(entry["T"]) >= 1
    assert int(entry["D"]) >= 1_050_000


@pytest.mark.parametrize(
    ("method", "path", "status", "size"),
    [
        ("GET", "/coroutine", 200, 9),
        ("GET", "/synchronous", 200, 13),
        ("POST", "/synchronous", 200, 15),
        ("GET", "/streamed", 200, 10_000),
        ("GET", "/file", 200, 5_000),
        ("HEAD", "/coroutine", 200, 0),
        ("HEAD", "/file", 200, 0),
        ("GET", "/redirect", 302, None),
        ("GET", "/nowhere", 404, None),
        ("PUT", "/coroutine", 405, None),
        ("GET", "/native", 200, 6),
        ("HEAD", "/native", 200, 0),
    ],
)
def test_kinds_of_responses(logged, method, path, status, size):
    """Whatever answers, the line has its status and the bytes of its body that were sent."""
    name = f"{method}{path.replace('/', '-')}"
    response, entry = logged(method, path, b"x" * 123 if method == "POST" else None, name=name)
    assert response.status == status
    assert len(response.body) == (len(response.body) if size is None else size)
    assert entry["r"] == f"{method} {path} HTTP/1.1"
    assert (entry["s"], entry["m"], entry["U"]) == (str(status), method, path)
    assert entry["b"] == entry["B"] == str(len(response.body))
    assert entry["type"] == response.headers["Content-Type"]
    assert (entry["h"], entry["method"], entry["H"]) == ("127.0.0.1", method, "HTTP/1.1")


@pytest.mark.parametrize("path", ["/coroutine", "/native"])
def test_user(logged, path):
    """The user is that of basic authentication."""
    credentials = base64.b64encode(b"alice:secret").decode()
    name = f"user{path.replace('/', '-')}"
    _, entry = logged("GET", path, name=name, Authorization=f"Basic {credentials}")
    assert entry["u"] == "alice"


def test_client_that_has_gone(server, entry_of):
    """A request whose client has gone away before an answer is logged with 499."""
    with server.connect() as client:
        client.sendall(b"GET /wait HTTP/1.1\r\nHost: here\r\nX-Request-Id: gone\r\n\r\n")
        server.wait_for("waiting")
    entry = entry_of("gone")
    assert (entry["s"], entry["r"], entry["h"]) == ("499", "GET /wait HTTP/1.1", "127.0.0.1")


def test_bad_request(server, wait_until):
    """What is no valid request has a line of its own."""
    with server.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nBad Header: x\r\n\r\n")
        response = http.client.HTTPResponse(client)
        response.begin()
        assert response.status == 400
        response.close()
    file = server.cwd / "access.log"
    wait_until(lambda: "s=400|" in _text(file))
    (entry,) = [entry for entry in _lines(file) if entry["s"] == "400"]
    assert (entry["h"], entry["id"]) == ("127.0.0.1", "-")


COMPARED_APP = """
from flask import Flask, Response, redirect, send_file, stream_with_context

app = Flask(__name__)


@app.route("/", methods=["GET", "POST"])
def index():
    return "index"


@app.get("/streamed")
def streamed():
    return Response((b"x" * 1000 for _ in range(3)))


@app.get("/file")
def file():
    return send_file("app.py")


@app.get("/redirect")
def redirected():
    return redirect("/")


@app.get("/empty")
def empty():
    return "", 204


@app.get("/error")
def error():
    raise ValueError("on purpose")
"""


def test_default_format_is_that_of_gthread(gunicorn, wait_until):
    """With the default format each line is the one that gunicorn's own worker writes."""
    requests = [
        ("GET", "/", {}),
        ("GET", "/?q=%C3%A4&r=%22", {"Referer": "http://there/", "User_Agent": 'Me "1"'}),
        ("GET", "/%C3%A4", {}),
        ("POST", "/", {"User_Agent": "curl/8"}),
        ("HEAD", "/", {}),
        ("GET", "/streamed", {}),
        ("GET", "/file", {}),
        ("GET", "/redirect", {}),
        ("GET", "/empty", {}),
        ("GET", "/error", {}),
        ("GET", "/nowhere", {"Authorization": "Basic " + base64.b64encode(b"bob:x").decode()}),
    ]
    logs = []
    for worker in ("gthread", "flask_aio_gunicorn.AioWorker"):
        log = f"{worker}.log"
        # gunicorn does not count what sendfile has sent.
        options = ("--access-logfile", log, "--no-sendfile")
        server = gunicorn(*options, app=COMPARED_APP, worker=worker)
        for number, (method, path, headers) in enumerate(requests, 1):
            server.request(method, path, **headers)
            wait_until(lambda: _text(server.cwd / log).count("\n") >= number)  # noqa: B023
        server.stop()
        lines = _text(server.cwd / log).splitlines()
        logs.append([re.sub(r"\[\d\d/\w{3}/[^]]*\]", "[time]", line) for line in lines])
    assert logs[0] == logs[1]
    assert len(logs[0]) == len(requests)
    assert logs[0][0] == '127.0.0.1 - - [time] "GET / HTTP/1.1" 200 5 "-" "-"'


@pytest.mark.parametrize("capture", [False, True])
def test_usr1_reopens_the_files(gunicorn, wait_until, capture):
    """After SIGUSR1 each log goes to a new file, where the old one has been moved away."""
    server = gunicorn(
        *("--access-logfile", "access.log", "--error-logfile", "error.log"),
        *(["--capture-output"] if capture else []),
        app=APP,
        config="""
def post_worker_init(worker):
    print("Booting worker with pid", flush=True)

def when_ready(server):
    address = server.LISTENERS[0].sock.getsockname()
    print("Listening at: http://127.0.0.1:%d" % address[1], flush=True)
""",
        ready=not capture,
    )
    if capture:
        wait_until(lambda: "Listening at: http" in _text(server.cwd / "error.log"))
        server.output = _text(server.cwd / "error.log")
    access, error = server.cwd / "access.log", server.cwd / "error.log"
    server.get("/logging/before")
    # The line is written after the response has been sent.
    wait_until(lambda: "/logging/before" in _text(access))
    for name in ("access", "error"):
        (server.cwd / f"{name}.log").rename(server.cwd / f"{name}.old")
    server.send_signal(signal.SIGUSR1)

    def reopened():
        server.get("/logging/between")
        return "between" in _text(access) and "library between" in _text(error)

    wait_until(reopened)
    server.get("/logging/after")
    wait_until(lambda: "/logging/after" in _text(access))
    for marker in ("app.logger after", "wsgi.errors after", "library after"):
        assert marker in _text(error)
        assert marker not in _text(server.cwd / "error.old")
        assert marker.replace("after", "before") in _text(server.cwd / "error.old")
    assert "/logging/before" in _text(server.cwd / "access.old")
    assert "/logging/after" not in _text(server.cwd / "access.old")
    if capture:
        with server.connect() as client:
            client.sendall(b"GET /wait HTTP/1.1\r\nHost: here\r\n\r\n")
            wait_until(lambda: "waiting" in _text(error))


def test_no_access_log(gunicorn):
    """Without an access log nothing is written for a request."""
    server = gunicorn(app=APP)
    for path in ("/coroutine", "/synchronous", "/native", "/nowhere"):
        server.get(path)
    assert server.stop() == 0
    assert "HTTP/1.1" not in server.output
    assert "nowhere" not in server.output


def test_syslog(gunicorn):
    """gunicorn's syslog gets the lines too."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as syslog:
        syslog.bind(("127.0.0.1", 0))
        syslog.settimeout(60)
        server = gunicorn(
            "--log-syslog", "--log-syslog-to", f"udp://127.0.0.1:{syslog.getsockname()[1]}"
        )
        server.get("/coroutine")
        while True:
            message = syslog.recv(65536)
            if b".access:" in message:
                break
    assert b'"GET /coroutine HTTP/1.1" 200' in message
