"""How connections end when ``aio.run`` is told to stop."""

from __future__ import annotations

import signal

import pytest

APP = """
import asyncio, os
from flask import Flask, request
from flask_aio_core import AioHTTP, await_

app = Flask(__name__)
# A stop that waited for an idle connection would wait for ever.
app.config["AIO_SHUTDOWN_GRACE"] = app.config["AIO_KEEPALIVE"] = 300
aio = AioHTTP(app)

async def stopping(_):
    print("stopping", flush=True)

app.aiohttp_app.on_shutdown.append(stopping)

@app.get("/")
async def index():
    return "index"

@app.post("/coroutine")
async def coroutine():
    print("begun", flush=True)
    return str(len(request.get_data()))

@app.post("/synchronous")
def synchronous():
    print("begun", flush=True)
    return str(len(request.get_data()))

@app.get("/wait")
async def wait():
    print("begun", flush=True)
    while not os.path.exists("go"):
        await asyncio.sleep(0.01)
    return "finished"

if __name__ == "__main__":
    aio.run(port=0, uvloop=bool(os.environ["UVLOOP"]))
"""


@pytest.fixture(params=["", "1"], ids=["asyncio", "uvloop"])
def server(start, request):
    """``aio.run`` on either loop."""
    return start(app=APP, env={"UVLOOP": request.param}, warnings="default")


def read_all(connection):
    """Read until the server closes."""
    with connection, connection.makefile("rb") as stream:
        return stream.read()


def head_of(response):
    return response.partition(b"\r\n\r\n")[0].lower()


@pytest.mark.parametrize("size", [1000, 1_000_000], ids=["small", "large"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("path", ["/coroutine", "/synchronous"])
def test_an_upload_in_progress_is_completed(server, path, chunked, size):
    """What a client is still sending when the stop begins arrives, and is answered."""
    half = b"x" * (size // 2)
    piece = b"%x\r\n%b\r\n" % (len(half), half) if chunked else half
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
    connection = server.connect()
    connection.sendall(f"POST {path} HTTP/1.1\r\nHost: h\r\n{length}\r\n\r\n".encode() + piece)
    if chunked or size > 64 * 1024:
        server.wait_for("begun")
    else:  # It is read before the view is called; what came before it has been read then.
        assert server.get("/") == (200, "index")
    server.send_signal(signal.SIGTERM)
    server.wait_for("stopping")
    connection.sendall(piece + (b"0\r\n\r\n" if chunked else b""))
    response = read_all(connection)
    assert response.startswith(b"HTTP/1.1 200 ")
    assert response.endswith(b"\r\n\r\n%d" % size)
    assert b"connection: close" in head_of(response)
    assert server.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_idle_connections_are_closed(server, number):
    """A stop waits neither for connections that were used nor for such that never were."""
    used, unused = server.connect(), server.connect()
    used.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    while not used.recv(1000).endswith(b"index"):
        pass
    server.send_signal(number)
    assert read_all(used) == b""
    assert read_all(unused) == b""
    assert server.wait() == 0


def test_idle_connections_are_closed_while_a_request_runs(server):
    """They are closed when the stop begins, not when the last request has ended."""
    idle, busy = server.connect(), server.connect()
    busy.sendall(b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n")
    server.wait_for("begun")
    server.send_signal(signal.SIGTERM)
    assert read_all(idle) == b""
    (server.cwd / "go").touch()
    response = read_all(busy)
    assert response.endswith(b"\r\n\r\nfinished")
    assert b"connection: close" in head_of(response)
    assert server.wait() == 0


def test_responses_before_the_stop_keep_the_connection(server):
    """Only a server that stops announces the end of the connection."""
    connection = server.connect()
    for _ in range(2):
        connection.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        response = b""
        while not response.endswith(b"index"):
            response += connection.recv(1000)
        assert b"connection: close" not in head_of(response)
    connection.close()


def test_no_connection_is_accepted_after_the_stop_began(server):
    """Clients go elsewhere while the last requests run."""
    busy = server.connect()
    busy.sendall(b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n")
    server.wait_for("begun")
    server.send_signal(signal.SIGTERM)
    server.wait_for("stopping")
    with pytest.raises(ConnectionRefusedError):
        server.connect()
    (server.cwd / "go").touch()
    assert read_all(busy).endswith(b"finished")
    assert server.wait() == 0
