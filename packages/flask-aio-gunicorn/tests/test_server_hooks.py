"""gunicorn's server hooks: which are called, where, with what and in which order."""

from __future__ import annotations

import json
import signal

import pytest

APP = """
import asyncio
import time

from aiohttp import web
from flask import Flask
from flask_aio_core import AioHTTP

app = Flask(__name__)
AioHTTP(app)


@app.get("/coroutine")
async def coroutine():
    return "coroutine", {"X-Ours": "yes"}


@app.get("/synchronous")
def synchronous():
    return "synchronous", {"X-Ours": "yes"}


@app.get("/streamed")
async def streamed():
    for _ in range(5):
        yield "x" * 100


@app.get("/block")
async def block():
    time.sleep(3600)


async def native(request):
    return web.Response(text="native", headers={"X-Ours": "yes"})


async def failing(request):
    raise ValueError("on purpose")


async def refusing(request):
    raise web.HTTPForbidden()


app.aiohttp_app.router.add_get("/native", native)
app.aiohttp_app.router.add_get("/failing", failing)
app.aiohttp_app.router.add_get("/refusing", refusing)
"""

#: Appends a line for each call: one file, so that the order is known across the processes.
NOTE = """
import json
import os

def note(name, **values):
    line = json.dumps({"name": name, "pid": os.getpid(), **values}) + "\\n"
    file = os.open("calls", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode())
    os.close(file)
"""

LIFECYCLE = (
    NOTE
    + """
def kind(thing):
    return type(thing).__name__

def on_starting(server):
    note("on_starting", server=kind(server))

def when_ready(server):
    note("when_ready", server=kind(server))

def pre_fork(server, worker):
    note("pre_fork", server=kind(server), worker=kind(worker))

def post_fork(server, worker):
    note("post_fork", server=kind(server), worker=kind(worker), worker_pid=worker.pid)

def post_worker_init(worker):
    note("post_worker_init", worker=kind(worker), worker_pid=worker.pid, app=kind(worker.wsgi))

def worker_int(worker):
    note("worker_int", worker=kind(worker), worker_pid=worker.pid)

def worker_abort(worker):
    note("worker_abort", worker=kind(worker), worker_pid=worker.pid)

def worker_exit(server, worker):
    note("worker_exit", server=kind(server), worker=kind(worker), worker_pid=worker.pid)

def child_exit(server, worker):
    note("child_exit", server=kind(server), worker=kind(worker), worker_pid=worker.pid)

def nworkers_changed(server, new, old):
    note("nworkers_changed", server=kind(server), new=new, old=old)

def on_exit(server):
    note("on_exit", server=kind(server))
"""
)

REQUESTS = (
    NOTE
    + """
def pre_request(worker, req):
    note("pre_request", worker=type(worker).__name__, method=req.method, path=req.path,
         uri=req.uri, query=req.query, version=req.version, headers=req.headers)
    if req.path == "/refused":
        raise ValueError("pre_request on purpose")
"""
)

POST_REQUEST = {
    2: REQUESTS
    + """
def post_request(worker, req):
    note("post_request", worker=type(worker).__name__, method=req.method, path=req.path)
""",
    3: REQUESTS
    + """
def post_request(worker, req, environ):
    note("post_request", worker=type(worker).__name__, method=req.method, path=req.path,
         path_info=environ["PATH_INFO"], software=environ["SERVER_SOFTWARE"])
""",
    4: REQUESTS
    + """
def post_request(worker, req, environ, resp):
    note("post_request", worker=type(worker).__name__, method=req.method, path=req.path,
         path_info=environ["PATH_INFO"], status=resp.status, code=resp.status_code, sent=resp.sent,
         length=resp.response_length, ours=[v for n, v in resp.headers if n == "X-Ours"])
    if "raise" in req.query:
        raise ValueError("post_request on purpose")
""",
}


def _calls(server, *names):
    file = server.cwd / "calls"
    calls = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [call for call in calls if not names or call["name"] in names]


def _names(server):
    return [call["name"] for call in _calls(server)]


def test_order_of_the_lifecycle(gunicorn, wait_until):
    """From start to end each hook is called once, in the right process, in gunicorn's order."""
    server = gunicorn(app=APP, config=LIFECYCLE)
    wait_until(lambda: "post_worker_init" in _names(server))
    (worker,) = server.workers()
    assert server.get().text == "coroutine"
    assert server.stop() == 0
    calls = _calls(server)
    assert {call["server"] for call in calls if "server" in call} == {"Arbiter"}
    assert {call["worker"] for call in calls if "worker" in call} == {"AioWorker"}
    assert {call["app"] for call in calls if "app" in call} == {"Flask"}
    master = server.pid
    # The number of workers changes from none, when that is known.
    assert [call for call in calls if call["name"] == "nworkers_changed"] == [
        {"name": "nworkers_changed", "pid": master, "server": "Arbiter", "new": 1, "old": None}
    ]
    assert [
        (call["name"], call["pid"]) for call in calls if call["name"] != "nworkers_changed"
    ] == [
        ("on_starting", master),
        ("when_ready", master),
        ("pre_fork", master),
        ("post_fork", worker),
        ("post_worker_init", worker),
        ("worker_exit", worker),
        ("child_exit", master),
        ("on_exit", master),
    ]
    assert {call["worker_pid"] for call in calls if "worker_pid" in call} == {worker}


def test_number_of_workers(gunicorn, wait_until):
    """nworkers_changed is called when a signal asks for another worker."""
    server = gunicorn(app=APP, config=LIFECYCLE)
    wait_until(lambda: _names(server).count("post_worker_init") == 1)
    server.send_signal(signal.SIGTTIN)
    wait_until(lambda: _names(server).count("post_worker_init") == 2)
    changes = _calls(server, "nworkers_changed")
    assert [(call["old"], call["new"]) for call in changes] == [(None, 1), (1, 2)]
    assert {call["pid"] for call in changes} == {server.pid}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_interrupted_worker(gunicorn, wait_until, number):
    """worker_int is called in a worker that is told to end at once; the master replaces it."""
    server = gunicorn(app=APP, config=LIFECYCLE)
    wait_until(lambda: "post_worker_init" in _names(server))
    assert server.get().text == "coroutine"
    (worker,) = server.workers()
    server.send_signal(number, worker)
    wait_until(lambda: _names(server).count("post_worker_init") == 2)
    calls = _calls(server, "worker_int", "worker_exit", "child_exit", "worker_abort")
    assert [(call["name"], call["pid"], call["worker_pid"]) for call in calls] == [
        ("worker_int", worker, worker),
        ("worker_exit", worker, worker),
        ("child_exit", server.pid, worker),
    ]


def test_aborted_worker(gunicorn, wait_until):
    """worker_abort is called in a worker whose event loop is blocked for longer than timeout."""
    server = gunicorn("--timeout", "4", app=APP, config=LIFECYCLE)
    wait_until(lambda: "post_worker_init" in _names(server))
    (worker,) = server.workers()
    with server.connect() as client:
        client.sendall(b"GET /block HTTP/1.1\r\nHost: here\r\n\r\n")
        wait_until(lambda: _names(server).count("post_worker_init") == 2)
    calls = _calls(server, "worker_abort", "worker_exit", "child_exit", "worker_int")
    assert [(call["name"], call["pid"]) for call in calls] == [
        ("worker_abort", worker),
        ("worker_exit", worker),
        ("child_exit", server.pid),
    ]
    assert server.get().text == "coroutine"


@pytest.fixture(scope="module")
def server(shared_gunicorn):
    """A server with pre_request, and a post_request of four parameters."""
    return shared_gunicorn(app=APP, config=POST_REQUEST[4])


@pytest.fixture
def calls(server, wait_until):
    """Make a request; return the response and the calls that belong to it."""

    def make(method, path, **headers):
        before = len(_calls(server))
        response = server.request(method, path, **headers)
        wait_until(lambda: "post_request" in _names(server)[before:])
        return response, _calls(server)[before:]

    return make


@pytest.mark.parametrize(
    ("method", "path", "status", "sent", "ours"),
    [
        ("GET", "/coroutine", "200 OK", 9, ["yes"]),
        ("GET", "/synchronous", "200 OK", 11, ["yes"]),
        ("HEAD", "/coroutine", "200 OK", 0, ["yes"]),
        ("GET", "/streamed", "200 OK", 500, []),
        ("GET", "/nowhere", "404 NOT FOUND", None, []),
        ("GET", "/native", "200 OK", 6, ["yes"]),
        ("HEAD", "/native", "200 OK", 0, ["yes"]),
        ("GET", "/failing", "500 Internal Server Error", None, []),
        ("GET", "/refusing", "403 Forbidden", 14, []),
    ],
)
def test_arguments_of_request_hooks(server, calls, method, path, status, sent, ours):
    """Both see the request; the second sees what was answered and how much was sent."""
    response, (before, after) = calls(method, f"{path}?a=%20", X_Hello="there")
    assert f"{response.status} {response.reason}" == status
    headers = before.pop("headers")
    assert ["X-HELLO", "there"] in headers
    assert before == {
        "name": "pre_request",
        "pid": server.workers()[0],
        "worker": "AioWorker",
        "method": method,
        "path": path,
        "uri": f"{path}?a=%20",
        "query": "a=%20",
        "version": [1, 1],
    }
    if sent is not None:
        assert after["sent"] == sent
    assert after["status"] == status
    assert after["code"] == response.status
    assert after["ours"] == ours
    assert (after["method"], after["path"], after["path_info"]) == (method, path, path)
    assert (after["name"], after["pid"]) == ("post_request", before["pid"])


def test_post_request_that_raises(server, calls):
    """Its error is logged; the response arrives all the same."""
    seen = server.output.count("post_request on purpose")
    for path in ("/coroutine", "/synchronous", "/streamed", "/native"):
        response, _ = calls("GET", f"{path}?raise")
        assert response.status == 200
        assert response.body
    server.wait_for("ValueError: post_request on purpose", seen + 4)
    assert "Exception in post_request hook" in server.output


def test_pre_request_that_raises(server):
    """Its error is logged and answered with 500; the app is not called, the worker goes on."""
    assert server.get("/refused").status == 500
    server.wait_for("ValueError: pre_request on purpose")
    assert server.get().status == 200


@pytest.mark.parametrize("parameters", [2, 3])
def test_post_request_with_fewer_parameters(gunicorn, wait_until, parameters):
    """post_request may have two or three parameters, as in older releases of gunicorn."""
    server = gunicorn(app=APP, config=POST_REQUEST[parameters])
    for number, path in enumerate(("/coroutine", "/synchronous", "/streamed", "/native"), 1):
        assert server.get(path).status == 200
        wait_until(lambda: len(_calls(server, "post_request")) == number)  # noqa: B023
        call = _calls(server, "post_request")[-1]
        assert (call["worker"], call["method"], call["path"]) == ("AioWorker", "GET", path)
        if parameters == 3:
            assert call["path_info"] == path
            assert call["software"].startswith("gunicorn/" if path != "/native" else "flask-aio")
    assert "Traceback" not in server.output


def test_debug_level_logs_requests(gunicorn):
    """gunicorn's own pre_request writes a line for each request at the level debug."""
    server = gunicorn("--log-level", "debug", app=APP)
    server.get("/coroutine")
    server.wait_for("[DEBUG] GET /coroutine")
