"""How much happens at once: worker threads and open connections."""

from __future__ import annotations

import contextlib
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

HANG = 60

#: ``/meet`` ends when so many requests are in it; ``/enter`` when ``/open`` was requested.
APP = """
import threading
from flask import Flask, request

app = Flask(__name__)
barrier = threading.Barrier(5)
opened = threading.Event()
lock = threading.Lock()
inside = most = 0
order = []

@app.get("/meet")
def meet():
    barrier.wait()
    return "met"

@app.get("/enter")
def enter():
    global inside, most
    with lock:
        inside += 1
        most = max(most, inside)
    opened.wait()
    with lock:
        inside -= 1
    return "left"

@app.get("/inside")
async def count():
    return {"inside": inside, "most": most}

@app.get("/open")
async def open_():
    opened.set()
    return ""

@app.get("/order/<name>")
async def note(name):
    order.append(name)
    return order
"""

NOTICE = "def pre_request(worker, request): print('arrived at', request.path, flush=True)"


@pytest.mark.parametrize("options", [[], ["--threads", "1"]])
def test_synchronous_views_run_at_the_same_time_by_default(gunicorn, options):
    """gunicorn's default of one thread leaves us ours: synchronous views do not wait in line."""
    server = gunicorn(*options, app=APP)
    with ThreadPoolExecutor(5) as pool:
        responses = list(pool.map(server.get, ["/meet"] * 5))
    assert [response.text for response in responses] == ["met"] * 5


def test_threads_is_the_number_of_worker_threads(gunicorn, wait_until):
    """--threads bounds the synchronous views at work; coroutine views do not wait for them."""
    server = gunicorn("--threads", "2", app=APP, config=NOTICE)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(server.get, "/enter") for _ in range(4)]
        try:
            server.wait_for("arrived at /enter", count=4)
            wait_until(lambda: server.get("/inside").json["inside"] == 2)
            assert not any(one.done() for one in waiting)
        finally:
            server.get("/open")
        assert [one.result().text for one in waiting] == ["left"] * 4
    assert server.get("/inside").json == {"inside": 0, "most": 2}


def get(server, path, connection):
    return server.exchange(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode(), connection)


def test_worker_connections_bounds_the_open_connections(gunicorn):
    """One connection more waits in the backlog, until another closes; then it is served."""
    server = gunicorn("--worker-connections", "2", "--keep-alive", "600", app=APP)
    with contextlib.ExitStack() as stack:
        first, second, third, fourth = (stack.enter_context(server.connect()) for _ in range(4))
        # The backlog is served in order.
        assert get(server, "/order/first", first).json == ["first"]
        assert get(server, "/order/second", second).json == ["first", "second"]
        third.sendall(b"GET /order/third HTTP/1.1\r\nHost: test\r\n\r\n")
        fourth.sendall(b"GET /order/fourth HTTP/1.1\r\nHost: test\r\n\r\n")
        for _ in range(20):
            order = get(server, "/order/again", first).json
        assert set(order) == {"first", "second", "again"}
        third.settimeout(0.2)
        with pytest.raises(TimeoutError):
            third.recv(1)
        third.settimeout(HANG)
        second.close()
        assert server.exchange(b"", third).json == [*order, "third"]
        assert get(server, "/order/again", first).json == [*order, "third", "again"]
        first.close()
        assert server.exchange(b"", fourth).json == [*order, "third", "again", "fourth"]
    # However connections end, they are counted once.
    for _ in range(5):
        with server.connect():
            pass
        with server.connect() as connection:
            connection.sendall(b"GET /order/x HTTP/1.1\r\n")
        assert server.exchange(b"x\r\n\r\n").status == 400
    assert server.get("/order/last").json[-1] == "last"
    with server.connect() as one, server.connect() as other:
        assert get(server, "/order/one", one).status == 200
        assert get(server, "/order/other", other).json[-1] == "other"


def test_bound_holds_over_all_addresses(gunicorn):
    """The bound is one for all listening sockets of the worker, and many that come are served."""
    server = gunicorn("--worker-connections", "1", "-b", "127.0.0.1:0", app=APP)
    port = int(server.addresses[1].rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), HANG) as other:
        with server.connect() as connection:
            assert get(server, "/order/first", connection).json == ["first"]
            other.sendall(b"GET /order/other HTTP/1.1\r\nHost: test\r\n\r\n")
            other.settimeout(0.2)
            with pytest.raises(TimeoutError):
                other.recv(1)
        other.settimeout(HANG)
        assert server.exchange(b"", other).json == ["first", "other"]
    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(server.get, ["/order/x"] * 80))
    assert {response.status for response in responses} == {200}
    assert server.stop() == 0


def test_more_connections_than_file_descriptors(gunicorn):
    """What the system cannot give waits like what is over the bound, and the log says why."""
    server = gunicorn(
        *("--worker-connections", "1000", "--keep-alive", "600"),
        app=APP,
        command=("sh", "-c", 'ulimit -n 64; exec "$@"', "sh", sys.executable, "-m", "gunicorn"),
    )
    assert server.get("/order/first").json == ["first"]  # What is imported late is there then.
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(server.connect()) for _ in range(80)]
        server.wait_for("Cannot accept a connection: [Errno 24] Too many open files")
        # Those that it has go on.
        assert get(server, "/order/second", connections[0]).json == ["first", "second"]
        connections[-1].sendall(b"GET /order/last HTTP/1.1\r\nHost: test\r\n\r\n")
        for connection in connections[:40]:
            connection.close()
        assert server.exchange(b"", connections[-1]).json == ["first", "second", "last"]
    assert server.get("/order/after").status == 200
    assert server.stop() == 0
    assert server.output.count("Booting worker") == 1
