"""``aio.run`` in a process of its own: addresses, signals, the debugger."""

from __future__ import annotations

import json
import re
import signal
import socket
import ssl
import stat
import urllib.parse
from pathlib import Path
from typing import Any

import pytest

APP = """
import asyncio, os, sys, time
from flask import Flask
from flask_aio_core import AioHTTP, await_, in_thread

app = Flask(__name__)
aio = AioHTTP(app)

def say(*words):
    print(*words, flush=True)

@aio.cleanup_ctx
async def context():
    say("hook: start")
    yield
    say("hook: clean-up")

async def stopping(_):
    say("stopping")

app.aiohttp_app.on_shutdown.append(stopping)

@app.teardown_request
def teardown(error):
    say("teardown")

@app.get("/")
async def index():
    await asyncio.sleep(0)
    return "index"

@app.get("/loop")
async def loop():
    return type(asyncio.get_running_loop()).__module__

@app.get("/debug")
async def debug():
    return str(app.debug)

async def wait_for_file():
    say("waiting")
    try:
        while not os.path.exists("go"):
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        say("cancelled")
        raise
    return "finished"

@app.get("/wait")
async def wait():
    return await wait_for_file()

@app.get("/wait-sync")
def wait_sync():
    return await_(wait_for_file())

@app.get("/block")
def block():
    say("waiting")
    while not os.path.exists("go"):
        time.sleep(0.01)
    return "finished"

@app.get("/endless")
async def endless():
    async def chunks():
        try:
            while True:
                yield "x" * 1000
                await asyncio.sleep(0.001)
        finally:
            say("stream ended")
    return chunks()

@app.get("/events")
async def events():
    async def chunks():
        yield "data: first\\n\\n"
        await asyncio.Event().wait()
    return chunks(), {"Content-Type": "text/event-stream"}

def secret_helper():
    secret_number = 6 * 7
    raise LookupError("no such thing")

@app.get("/fail/coroutine")
async def fail_coroutine():
    await asyncio.sleep(0)
    secret_helper()

@app.get("/fail/sync")
def fail_sync():
    secret_helper()

@app.get("/fail/stream")
async def fail_stream():
    async def chunks():
        await asyncio.sleep(0)
        secret_helper()
        yield "never"
    return chunks()

@app.get("/fail/late-stream")
def fail_late_stream():
    def chunks():
        yield "first"
        secret_helper()
    return chunks()

"""


def program(arguments: str) -> str:
    """The app, served with these arguments of aio.run."""
    return f"{APP}if __name__ == '__main__':\n    aio.run({arguments})\n"


#: Aloud, where a test wants to see that nothing is said.
LOUD = "import logging; logging.basicConfig(level=logging.WARNING, format='LOG %(message)s')\n"
LOUD += program("port=0, access_log=False")


def certificate(folder: Path) -> tuple[Path, Path]:
    """Write a certificate for localhost and its key."""
    from werkzeug.serving import make_ssl_devcert

    cert, key = make_ssl_devcert(str(folder / "dev"), host="localhost")
    return Path(cert), Path(key)


def tls_get(port: int, ca: Path | None = None) -> str:
    """GET / over TLS; verify the certificate if one is given."""
    context = ssl.create_default_context(cafile=ca)
    if ca is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as sock,
    ):
        sock.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
        return sock.makefile("rb").read().decode()


def unix_get(path: Path) -> str:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(str(path))
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return sock.makefile("rb").read().decode()


def ask(server: Any, path: str) -> socket.socket:
    """Send a request and leave its response to be read later."""
    sock: socket.socket = server.connect()
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    return sock


# --- where it listens


def test_port_0_prints_the_real_port_once_it_is_open(start):
    """The printed address can be connected to at once, and is not port 0."""
    server = start(app=program("port=0"))
    assert re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d+", server.url)
    assert server.get() == (200, "index")


def test_start_hooks_run_before_the_address_is_printed(start):
    """Whoever reads the line may rely on the app being ready."""
    server = start(app=program("port=0"))
    assert server.output.index("hook: start") < server.output.index("Running on")


def test_server_name_gives_host_and_port(start):
    """SERVER_NAME is the default of both, as for app.run()."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = start(
        app=program("").replace("aio = ", f"app.config['SERVER_NAME'] = 'localhost:{port}'\naio = ")
    )
    assert server.port == port
    assert server.get("/", headers={"Host": f"localhost:{port}"}) == (200, "index")


def test_ipv6_address_is_printed_in_brackets(start):
    """An IPv6 host listens there, and the printed URL can be opened."""
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    server = start(app=program("host='::1', port=0"))
    assert server.url.startswith("http://[::1]:")
    assert server.get() == (200, "index")


def test_unspecified_address_prints_one_that_can_be_opened(start):
    """0.0.0.0 is no address to open in a browser."""
    server = start(app=program("host='0.0.0.0', port=0"))
    assert server.url.startswith("http://127.0.0.1:")
    assert server.get() == (200, "index")


def test_port_in_use_is_one_line_and_status_1(start):
    """A port that another program has gives one clear line instead of a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = start(app=program(f"port={port}"), ready=False)
        assert server.wait() == 1
    (line,) = [line for line in server.output.splitlines() if not line.startswith(" * ")]
    assert line.startswith(f"Cannot listen on 127.0.0.1:{port}: the address is already in use.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("host='198.51.100.1', port=0", "this machine has no such address"),
        ("host='no-such-host.invalid', port=0", "this machine has no such address"),
        ("port=70000", "Cannot listen on 127.0.0.1:70000"),
        ("path='no/such/folder/socket'", "Cannot listen on no/such/folder/socket"),
    ],
)
def test_impossible_address_is_one_line_and_status_1(start, arguments, message):
    """What cannot be listened on is named in one line."""
    server = start(app=program(arguments), ready=False)
    assert server.wait() == 1
    assert message in server.output
    assert "Traceback" not in server.output


def test_unix_socket_serves_and_is_removed_at_exit(start, tmp_path):
    """path= listens on a unix socket, whose file goes with the server."""
    path = tmp_path / "socket"
    server = start(app=program("path='socket'"))
    assert server.url == f"http+unix://{path}"
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert unix_get(path).endswith("index")
    assert server.stop() == 0
    assert not path.exists()


def test_stale_unix_socket_is_replaced(start, tmp_path):
    """The file that a killed server has left does not keep the next one from starting."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    start(app=program("path='socket'"))
    assert unix_get(path).endswith("index")


def test_live_unix_socket_is_refused_and_left_alone(start, tmp_path):
    """A socket on which a server listens is not taken from it."""
    path = tmp_path / "socket"
    start(app=program("path='socket'"))
    second = start(app=program("path='socket'"), ready=False)
    assert second.wait() == 1
    assert "Cannot listen on socket: the address is already in use" in second.output
    assert "Traceback" not in second.output
    assert unix_get(path).endswith("index")


def test_file_that_is_no_socket_is_not_replaced(start, tmp_path):
    """A file of another kind at the path is never removed."""
    (tmp_path / "socket").write_text("precious")
    server = start(app=program("path='socket'"), ready=False)
    assert server.wait() == 1
    assert (tmp_path / "socket").read_text() == "precious"


def test_existing_socket_is_served(start):
    """sock= serves on a socket that the program has opened, or inherited."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        code = f"__import__('socket').socket(fileno={sock.fileno()})"
        server = start(app=program(f"sock={code}"), pass_fds=[sock.fileno()])
        assert server.port == sock.getsockname()[1]
        assert server.get() == (200, "index")


def test_adhoc_certificate_serves_https(start):
    """ssl_context='adhoc' serves HTTPS with a certificate made for the occasion."""
    server = start(app=program("port=0, ssl_context='adhoc'"))
    assert server.url.startswith("https://")
    assert tls_get(server.port).endswith("index")


def test_certificate_files_serve_https(start, tmp_path):
    """A pair of files is served, and the certificate is the one in the file."""
    cert, key = certificate(tmp_path)
    server = start(app=program(f"port=0, ssl_context=({str(cert)!r}, {str(key)!r})"))
    assert server.url.startswith("https://")
    assert tls_get(server.port, ca=cert).endswith("index")


def test_ssl_context_object_serves_https(start, tmp_path):
    """A ready-made SSLContext is used as it is."""
    cert, key = certificate(tmp_path)
    code = (
        "(lambda s: (c := s.SSLContext(s.PROTOCOL_TLS_SERVER),"
        f" c.load_cert_chain({str(cert)!r}, {str(key)!r}))[0])(__import__('ssl'))"
    )
    server = start(app=program(f"port=0, ssl_context={code}"))
    assert tls_get(server.port, ca=cert).endswith("index")


@pytest.mark.parametrize(("argument", "module"), [("", "uvloop"), (", uvloop=False", "asyncio")])
def test_uvloop_is_used_unless_told_otherwise(start, argument, module):
    """uvloop, where it is installed, is the loop of the views; uvloop=False keeps asyncio's."""
    server = start(app=program("port=0" + argument))
    status, loop = server.get("/loop")
    assert (status, loop.partition(".")[0]) == (200, module)
    assert server.stop() == 0


@pytest.mark.parametrize(("value", "debug"), [("1", "True"), ("0", "False")])
def test_debug_mode_comes_from_dotenv_file(start, value, debug):
    """FLASK_DEBUG in a .flaskenv file counts, if python-dotenv is installed."""
    pytest.importorskip("dotenv")
    files = {".flaskenv": f"FLASK_DEBUG={value}\n"}
    server = start(app=program("port=0, use_reloader=False"), files=files)
    assert server.get("/debug") == (200, debug)


@pytest.mark.parametrize(("value", "debug"), [("1", "True"), ("0", "False")])
def test_debug_mode_comes_from_environment(start, value, debug):
    """FLASK_DEBUG in the environment counts, as for app.run()."""
    code = program("port=0, use_reloader=False")
    server = start(app=code, env={"FLASK_DEBUG": value})
    assert server.get("/debug") == (200, debug)


# --- stopping


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("loop", ["", ", uvloop=False"])
@pytest.mark.parametrize("path", ["/wait", "/wait-sync", "/block"])
def test_signal_lets_running_request_finish(start, tmp_path, number, loop, path):
    """Ctrl-C and SIGTERM wait for what runs, then run the clean-up hooks and exit with 0."""
    server = start(app=program("port=0" + loop))
    with ask(server, path) as sock:
        server.wait_for("waiting")
        server.send_signal(number)
        server.wait_for("stopping")
        with pytest.raises(ConnectionError):
            server.connect()
        (tmp_path / "go").touch()
        assert b"finished" in sock.makefile("rb").read()
    assert server.wait() == 0
    assert server.output.index("teardown") < server.output.index("hook: clean-up")
    assert "Traceback" not in server.output


@pytest.mark.parametrize("path", ["/wait", "/wait-sync"])
def test_request_beyond_the_grace_time_is_cancelled(start, path):
    """After AIO_SHUTDOWN_GRACE seconds running requests are cancelled, torn down, without a log."""
    code = LOUD.replace("aio = ", "app.config['AIO_SHUTDOWN_GRACE'] = 2\naio = ")
    server = start(app=code)
    with ask(server, path):
        server.wait_for("waiting")
        assert server.stop() == 0, server.output
    cancelled, teardown = server.output.index("cancelled"), server.output.index("teardown")
    assert cancelled < teardown < server.output.index("hook: clean-up")
    assert "LOG" not in server.output
    assert "Traceback" not in server.output


@pytest.mark.parametrize("loop", ["", ", uvloop=False"])
@pytest.mark.parametrize("path", ["/wait", "/wait-sync", "/block"])
def test_second_ctrl_c_ends_at_once(start, loop, path):
    """Who presses Ctrl-C again does not want to wait for the grace time."""
    server = start(app=program("port=0" + loop))
    with ask(server, path):
        server.wait_for("waiting")
        server.send_signal(signal.SIGINT)
        server.wait_for("stopping")
        server.send_signal(signal.SIGINT)
        server.process.wait(20)  # The grace time is 30.
    assert "teardown" not in server.output.partition("stopping")[0]
    assert "Traceback" not in server.output


def test_ctrl_c_with_open_event_stream_stops_without_waiting(start):
    """An event stream, which never ends by itself, does not use the grace time up."""
    server = start(app=program("port=0"))
    with ask(server, "/events") as sock:
        file = sock.makefile("rb")
        while b"first" not in file.readline():
            pass
        server.send_signal(signal.SIGINT)
        assert server.process.wait(20) == 0  # The grace time is 30.


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_normal_run_with_aborted_stream_logs_nothing(start, number):
    """Requests, a stream that was left, and the end log nothing at WARNING; the status is 0."""
    server = start(app=LOUD)
    assert server.get() == (200, "index")
    with ask(server, "/endless") as sock:
        sock.recv(3000)
    server.wait_for("stream ended")
    assert server.stop(number) == 0
    assert "LOG" not in server.output
    assert "Traceback" not in server.output
    assert "Warning" not in server.output


# --- the debugger


@pytest.fixture
def debugging(start):
    """A server in debug mode, without the reloader and the PIN."""
    return start(
        app=program("port=0, debug=True, use_reloader=False"),
        env={"WERKZEUG_DEBUG_PIN": "off"},
    )


def evaluate(server: Any, page: str, expression: str) -> str:
    """Evaluate an expression in the innermost frame of a debugger page."""
    secret = re.search(r'SECRET = "(\w+)"', page)
    frames = re.findall(r'id="frame-(\d+)"', page)
    assert secret is not None
    query = urllib.parse.urlencode(
        {"__debugger__": "yes", "cmd": expression, "frm": frames[-1], "s": secret[1]}
    )
    status, text = server.get(f"/?{query}")
    assert status == 200, text
    return str(text)


@pytest.mark.parametrize("kind", ["coroutine", "sync", "stream"])
def test_debugger_shows_the_error_and_evaluates_in_its_frame(debugging, kind):
    """Werkzeug's debugger shows the users' frames, and its console sees their variables."""
    status, page = debugging.get(f"/fail/{kind}")
    assert status == 500
    assert "LookupError: no such thing" in page
    assert "secret_helper" in page
    assert f"fail_{kind}" in page or "chunks" in page
    assert "42" in evaluate(debugging, page, "secret_number")
    assert "43" in evaluate(debugging, page, "secret_number + 1")


@pytest.mark.parametrize("kind", ["coroutine", "sync"])
def test_debugger_needs_the_pin(start, kind):
    """Without the PIN nothing is evaluated."""
    server = start(
        app=program("port=0, debug=True, use_reloader=False"),
        env={"WERKZEUG_DEBUG_PIN": "123-456-789"},
    )
    _, page = server.get(f"/fail/{kind}")
    secret = re.search(r'SECRET = "(\w+)"', page)
    frame = re.findall(r'id="frame-(\d+)"', page)[-1]
    assert secret is not None
    query = f"/?__debugger__=yes&cmd=secret_number&frm={frame}&s={secret[1]}"
    assert "42" not in server.get(query)[1]
    pin = server.connect()
    with pin:
        pin.sendall(
            f"GET /?__debugger__=yes&cmd=pinauth&pin=123-456-789&s={secret[1]} HTTP/1.0\r\n"
            f"Host: 127.0.0.1:{server.port}\r\n\r\n".encode()
        )
        head, _, body = pin.makefile("rb").read().decode().partition("\r\n\r\n")
    assert json.loads(body)["auth"] is True
    cookie = re.search(r"Set-Cookie: ([^;]+);", head)
    assert cookie is not None
    assert "42" in server.get(query, headers={"Cookie": cookie[1]})[1]


def test_debugger_serves_its_own_files(debugging):
    """The page's script and style come from the debugger."""
    status, script = debugging.get("/?__debugger__=yes&cmd=resource&f=debugger.js")
    assert (status, "function" in script) == (200, True)


def test_error_in_a_stream_that_has_begun_cuts_it_off(debugging):
    """Where the page can no longer be sent, the error is in the log with the user's frames."""
    with ask(debugging, "/fail/late-stream") as sock:
        text = sock.makefile("rb").read().decode()
    assert "first" in text
    debugging.wait_for("LookupError: no such thing")
    assert "secret_helper" in debugging.output


def test_server_goes_on_after_errors_in_debug_mode(debugging):
    """Errors shown in the debugger leave the server as it was."""
    for kind in ("coroutine", "sync", "stream"):
        debugging.get(f"/fail/{kind}")
    assert debugging.get() == (200, "index")
    assert debugging.stop() == 0


def test_without_debug_no_page_of_the_debugger_is_shown(start):
    """Outside debug mode an error shows nothing of the code."""
    server = start(app=program("port=0"))
    for kind in ("coroutine", "sync", "stream"):
        status, page = server.get(f"/fail/{kind}")
        assert status == 500
        assert "secret_helper" not in page
        assert "SECRET" not in page
    server.wait_for("secret_helper")


# --- several processes


def test_app_is_safe_to_fork_after_import(start):
    """A process that forks after import serves in the child, as gunicorn's --preload does."""
    code = APP + (
        "if __name__ == '__main__':\n"
        "    import os\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        aio.run(port=0)\n"
        "    else:\n"
        "        import signal\n"
        "        signal.signal(signal.SIGINT, lambda *_: os.kill(child, signal.SIGINT))\n"
        "        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    server = start(app=code)
    assert server.get() == (200, "index")
    assert server.stop() == 0
    assert "hook: clean-up" in server.output


def test_output_to_a_pipe_is_flushed(start):
    """The address arrives at once also where Python would buffer the output."""
    server = start(app=program("port=0"), env={"PYTHONUNBUFFERED": ""})
    assert server.get() == (200, "index")
    assert server.process.poll() is None  # Nothing but a flush has shown it.
