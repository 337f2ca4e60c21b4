"""gunicorn's signals, sent while clients of all kinds make requests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
from pathlib import Path

import aiohttp
import pytest

#: Seconds after which something counts as hanging; no statement about speed.
HANG = 60

#: Views that take until the file "go" exists, and say how they end.
APP = """
import asyncio, os, time
from flask import Flask, Response, request
from flask_aio_core import AioHTTP, await_
from flask_aio_ws import websocket, ws

app = Flask(__name__)
aio = AioHTTP(app)

def say(*words):
    # In one write: the lines of several processes must not mix.
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

@aio.cleanup_ctx
async def context():
    yield
    say("context left")

@aio.on_cleanup
async def cleanup():
    say("cleaned up")

@app.teardown_request
def teardown(error):
    if request.path != "/":
        say("teardown of", request.path)

@app.get("/")
async def index():
    return "index"

async def wait_for_file():
    say("waiting in", request.path)
    while not os.path.exists("go"):
        await asyncio.sleep(0.01)
    return "finished"

@app.get("/coroutine")
async def coroutine():
    return await wait_for_file()

@app.get("/synchronous")
def synchronous():
    return await_(wait_for_file())

@app.get("/sleeping")
def sleeping():
    say("waiting in", request.path)
    while not os.path.exists("go"):
        time.sleep(0.01)
    return "finished"

@app.get("/stream")
async def stream():
    yield "begun, "
    yield await wait_for_file()

@app.post("/upload")
async def upload():
    say("waiting in", request.path)
    return str(len(request.get_data()))

@app.get("/events")
async def events():
    await wait_for_file() if "late" in request.args else None
    async def forever():
        say("sending events")
        while True:
            yield "data: 1\\n\\n"
            await asyncio.sleep(0.05)
    return Response(forever(), mimetype="text/event-stream")

@app.before_request
async def hold():
    if request.path == "/late-echo":
        await wait_for_file()

@app.route("/echo")
@app.route("/late-echo")
@websocket
async def echo():
    async for message in ws:
        await ws.send_str(message.data)

@app.get("/spawn")
async def spawn():
    async def work():
        try:
            await asyncio.sleep(3600)
        finally:
            say("background task ended")
    aio.spawn(work())
    await asyncio.sleep(0)
    return "spawned"
"""

RUNNING = ["/coroutine", "/synchronous", "/sleeping", "/stream"]


async def wait_for(server, text, count=1):
    """Wait for output without keeping the clients from running."""
    await asyncio.to_thread(server.wait_for, text, count)


async def end(server):
    """Wait for the master's end; return its exit status."""
    return await asyncio.to_thread(server.wait)


@contextlib.asynccontextmanager
async def client(server):
    """A session that never tries a request twice."""
    timeout = aiohttp.ClientTimeout(total=HANG)
    async with aiohttp.ClientSession(server.url, timeout=timeout) as session:
        session._retry_connection = False
        yield session


async def fetch(session, path):
    """GET a path; return what a complete response consists of."""
    async with session.get(path) as response:
        return response.status, await response.text(), response.headers.get("Connection")


async def send_head(server, head):
    """Open a connection and send the given lines of a request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head.replace("\n", "\r\n").encode())
    await writer.drain()
    return reader, writer


# Nothing is lost


@pytest.mark.parametrize("worker", ["AioWorker", "AioUVLoopWorker"])
async def test_hup_under_load_loses_nothing(gunicorn, hammer, loaded_app, worker):
    """Reloading while clients make requests: all are answered, soon by the new code only."""
    server = gunicorn("-w", "2", app=loaded_app, worker=worker)
    async with hammer(server.url) as load:
        await load.more()
        old = set(server.children())
        new_app = loaded_app.replace('VERSION = "1"', 'VERSION = "two"')
        (server.cwd / "app.py").write_text(new_app, encoding="utf-8")
        server.send_signal(signal.SIGHUP)
        await load.until(lambda: load.failures or not old & set(server.children()))
        before = load.versions["1"]
        await load.more()
        assert load.failures == []
        assert load.versions["two"] > 0
        # At most a response of each client was still on its way.
        assert load.versions["1"] - before <= 14
        late = load.versions["1"]
        await load.more()
        assert load.versions["1"] == late
    assert load.failures == []
    assert server.stop(signal.SIGTERM) == 0


async def test_several_hups_under_load_lose_nothing(gunicorn, hammer, loaded_app):
    """A reload while the last one is still going on loses nothing either."""
    server = gunicorn("-w", "2", app=loaded_app)
    async with hammer(server.url) as load:
        await load.more(3)
        old = set(server.children())
        for count in range(1, 4):
            server.send_signal(signal.SIGHUP)
            await wait_for(server, "Hang up: Master", count)
        await load.until(
            lambda: load.failures or (not old & set(server.children()) and len(load.pids) >= 5)
        )
        await load.more(3)
    assert load.failures == []


async def test_usr2_under_load_loses_nothing(gunicorn, hammer, loaded_app, is_running, wait_until):
    """A new master takes over while clients make requests; then the old one is told to stop."""
    server = gunicorn("-w", "2", "--pid", "pid", app=loaded_app)
    new_pid_file = server.cwd / "pid.2"
    async with hammer(server.url) as load:
        await load.more(5)
        new_app = loaded_app.replace('VERSION = "1"', 'VERSION = "two"')
        (server.cwd / "app.py").write_text(new_app, encoding="utf-8")
        server.send_signal(signal.SIGUSR2)
        await load.until(lambda: load.failures or (new_pid_file.exists() and load.versions["two"]))
        new_master = int(new_pid_file.read_text())
        server.send_signal(signal.SIGTERM)
        # Not the output's end: the new master has the same.
        assert await asyncio.to_thread(server.process.wait, HANG) == 0
        await load.more(1)
        before = load.versions["1"]
        await load.more(5)
        assert load.versions["1"] == before
    assert load.failures == []
    await wait_for(server, "Master has been promoted")
    os.kill(new_master, signal.SIGTERM)
    await asyncio.to_thread(wait_until, lambda: not is_running(new_master))


async def test_ttin_and_ttou_under_load_lose_nothing(gunicorn, hammer, loaded_app):
    """A worker more, then one less, while clients make requests."""
    server = gunicorn("-w", "1", app=loaded_app)
    async with hammer(server.url) as load:
        await load.more(3)
        assert len(server.children()) == 1
        server.send_signal(signal.SIGTTIN)
        await load.until(lambda: load.failures or len(load.pids) == 2)
        assert len(server.children()) == 2
        await load.more(3)
        server.send_signal(signal.SIGTTOU)
        await load.until(lambda: load.failures or len(server.children()) == 1)
        await load.more(3)
    assert load.failures == []


async def test_max_requests_under_load_loses_nothing(gunicorn, hammer, loaded_app):
    """Workers that are replaced again and again finish what they have begun."""
    server = gunicorn(
        *("-w", "2", "--max-requests", "50", "--max-requests-jitter", "20"), app=loaded_app
    )
    async with hammer(server.url) as load:
        await load.until(lambda: load.failures or len(load.pids) >= 5)
        await load.more(3)
    assert load.failures == []
    assert "Autorestarting worker after" in server.output


async def test_usr1_and_winch_under_load_lose_nothing(gunicorn, hammer, loaded_app):
    """Log files are opened anew; WINCH means nothing to a master that is no daemon."""
    server = gunicorn(
        *("-w", "2", "--access-logfile", "access.log", "--log-level", "debug"), app=loaded_app
    )
    access = server.cwd / "access.log"
    async with hammer(server.url) as load:
        await load.more(3)
        workers = server.children()
        access.rename(server.cwd / "old.log")
        server.send_signal(signal.SIGUSR1)
        # Both workers write to the new file.
        await load.until(lambda: load.failures or (access.exists() and access.stat().st_size))
        server.send_signal(signal.SIGWINCH)
        await wait_for(server, "SIGWINCH ignored")
        pids = load.pids.copy()
        await load.until(lambda: load.failures or len(load.pids - pids) == 2)
        await load.more(3)
        size = (server.cwd / "old.log").stat().st_size
        await load.more(3)
        assert (server.cwd / "old.log").stat().st_size == size
        assert server.children() == workers
    assert load.failures == []


async def test_a_term_under_load_answers_what_it_has_accepted(gunicorn, hammer, loaded_app):
    """Clients of a server that stops get complete responses, then no connection."""
    server = gunicorn("-w", "2", app=loaded_app)
    async with hammer(server.url) as load:
        await load.more(3)
        server.send_signal(signal.SIGTERM)
        assert await end(server) == 0
        await load.until(lambda: load.failures)
    refused = [one for one in load.failures if "ClientConnectorError" in one]
    assert refused == load.failures


# A graceful stop


async def test_term_lets_everything_finish(gunicorn):
    """Views, streams and uploads that are running come to their ends; WebSockets get 1001."""
    server = gunicorn("--graceful-timeout", "300", app=APP)
    async with client(server) as session:
        running = [asyncio.create_task(fetch(session, path)) for path in RUNNING]
        ws = await session.ws_connect("/echo")
        await ws.send_str("hello")
        assert await ws.receive_str() == "hello"
        reader, writer = await send_head(
            server, "POST /upload HTTP/1.1\nHost: h\nContent-Length: 100000\n\n"
        )
        small_reader, small_writer = await send_head(
            server, "POST /upload HTTP/1.1\nHost: h\nContent-Length: 10\n\n01234"
        )
        for path in [*RUNNING, "/upload"]:
            await wait_for(server, f"waiting in {path}")

        server.send_signal(signal.SIGTERM)
        closed = await ws.receive()
        assert (closed.type, closed.data) == (aiohttp.WSMsgType.CLOSE, 1001)
        assert not any(task.done() for task in running)
        for _ in range(10):
            writer.write(b"x" * 10000)
            await writer.drain()
            await asyncio.sleep(0.01)
        assert (await reader.read()).endswith(b"\r\n\r\n100000")
        small_writer.write(b"56789")
        assert (await small_reader.read()).endswith(b"\r\n\r\n10")
        (server.cwd / "go").touch()
        results = dict(zip(RUNNING, await asyncio.gather(*running), strict=True))
        # The head of the stream had left before the stop.
        assert results.pop("/stream") == (200, "begun, finished", None)
        assert set(results.values()) == {(200, "finished", "close")}
        writer.close()
        small_writer.close()
    assert await end(server) == 0
    for path in [*RUNNING, "/echo"]:
        assert server.output.count(f"teardown of {path}\n") == 1
    assert server.output.count("teardown of /upload") == 2
    assert server.output.count("cleaned up\ncontext left") == 1


@pytest.mark.parametrize("worker", ["AioWorker", "AioUVLoopWorker"])
async def test_what_outlasts_the_grace_time_is_cancelled(gunicorn, worker):
    """Before the master kills, views are cancelled, torn down and cleaned up after."""
    server = gunicorn("--graceful-timeout", "8", app=APP, worker=worker)
    async with client(server) as session:
        paths = ["/coroutine", "/synchronous", "/stream"]
        running = [asyncio.create_task(fetch(session, path)) for path in paths]
        reader, writer = await send_head(
            server, "POST /upload HTTP/1.1\nHost: h\nContent-Length: 100000\n\n"
        )
        for path in [*paths, "/upload"]:
            await wait_for(server, f"waiting in {path}")
        assert await fetch(session, "/spawn") == (200, "spawned", None)
        server.send_signal(signal.SIGTERM)
        results = await asyncio.gather(*running, return_exceptions=True)
        assert all(isinstance(result, aiohttp.ClientError) for result in results), results
        assert await reader.read() == b""
        writer.close()
    assert await end(server) == 0
    for path in [*paths, "/upload"]:
        assert server.output.count(f"teardown of {path}\n") == 1
    assert "background task ended\ncleaned up\ncontext left" in server.output
    assert "Worker exiting" in server.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_thread_that_outlasts_the_grace_time_is_left_behind(gunicorn, number):
    """Nothing can end a view that sleeps in its thread: the worker ends without it, cleaned up."""
    server = gunicorn("--graceful-timeout", "8", app=APP)
    async with client(server) as session:
        running = asyncio.create_task(fetch(session, "/sleeping"))
        await wait_for(server, "waiting in /sleeping")
        server.send_signal(number)
        with pytest.raises(aiohttp.ClientError):
            await running
        await wait_for(server, "Worker exiting")
        if number == signal.SIGHUP:
            assert await fetch(session, "/") == (200, "index", None)
            server.send_signal(signal.SIGTERM)
    assert await end(server) == 0
    assert server.output.count("cleaned up\ncontext left") == (2 if number == signal.SIGHUP else 1)
    assert "SIGKILL" not in server.output
    assert "WORKER TIMEOUT" not in server.output


async def test_a_silent_websocket_client_takes_no_time_from_the_teardown(gunicorn):
    """A client that does not answer the close frame does not make the master kill."""
    server = gunicorn("--graceful-timeout", "8", app=APP)
    async with client(server) as session:
        _, writer = await send_head(
            server,
            "GET /echo HTTP/1.1\nHost: h\nUpgrade: websocket\nConnection: Upgrade\n"
            "Sec-WebSocket-Version: 13\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\n\n",
        )
        running = asyncio.create_task(fetch(session, "/coroutine"))
        await wait_for(server, "waiting in /coroutine")
        server.send_signal(signal.SIGTERM)
        with pytest.raises(aiohttp.ClientError):
            await running
        writer.close()
    assert await end(server) == 0
    assert "teardown of /coroutine" in server.output
    assert "teardown of /echo" in server.output
    assert "context left" in server.output


async def test_event_streams_end_at_once(gunicorn):
    """Their clients come back by themselves: they do not hold up a stop."""
    server = gunicorn("--graceful-timeout", "300", app=APP)
    async with client(server) as session, session.get("/events") as response:
        assert await response.content.readline() == b"data: 1\n"
        server.send_signal(signal.SIGTERM)
        with contextlib.suppress(aiohttp.ClientError):
            await response.read()
        assert await end(server) == 0
    assert "teardown of /events" in server.output
    assert "context left" in server.output


async def test_an_event_stream_that_begins_during_the_stop_ends_at_once(gunicorn):
    """A request that was running when the stop began may turn out to be for events."""
    server = gunicorn("--graceful-timeout", "300", app=APP)
    async with client(server) as session:
        ws = await session.ws_connect("/echo")
        running = asyncio.create_task(fetch(session, "/events?late"))
        await wait_for(server, "waiting in /events")
        server.send_signal(signal.SIGTERM)
        assert (await ws.receive()).data == 1001
        (server.cwd / "go").touch()
        with contextlib.suppress(aiohttp.ClientError):
            await running
        assert await end(server) == 0
    assert "teardown of /events" in server.output


async def test_a_websocket_that_opens_during_the_stop_gets_1001(gunicorn):
    """A handshake that was running when the stop began must not hold it up."""
    server = gunicorn("--graceful-timeout", "300", app=APP)
    async with client(server) as session:
        first = await session.ws_connect("/echo")
        running = asyncio.create_task(session.ws_connect("/late-echo"))
        await wait_for(server, "waiting in /late-echo")
        server.send_signal(signal.SIGTERM)
        assert (await first.receive()).data == 1001
        (server.cwd / "go").touch()
        ws = await running
        closed = await ws.receive()
        assert (closed.type, closed.data) == (aiohttp.WSMsgType.CLOSE, 1001)
        assert await end(server) == 0
    assert "teardown of /late-echo" in server.output


# A quick stop


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
async def test_int_and_quit_are_quick_but_clean(gunicorn, number):
    """Nothing is waited for, but views are torn down, sockets get 1001, and hooks run."""
    app = APP.replace("aio = AioHTTP(app)", 'aio = AioHTTP(app)\napp.config.update({\n'
                      '    "AIO_BACKGROUND_GRACE": 300})')  # fmt: skip
    server = gunicorn("--graceful-timeout", "300", app=app)
    async with client(server) as session:
        paths = ["/coroutine", "/synchronous", "/stream"]
        running = [asyncio.create_task(fetch(session, path)) for path in paths]
        for path in paths:
            await wait_for(server, f"waiting in {path}")
        assert await fetch(session, "/spawn") == (200, "spawned", None)
        ws = await session.ws_connect("/echo")
        server.send_signal(number)
        closed = await ws.receive()
        assert (closed.type, closed.data) == (aiohttp.WSMsgType.CLOSE, 1001)
        results = await asyncio.gather(*running, return_exceptions=True)
        assert all(isinstance(result, aiohttp.ClientError) for result in results), results
    assert await end(server) == 0
    for path in [*paths, "/echo"]:
        assert server.output.count(f"teardown of {path}\n") == 1
    assert "background task ended\ncleaned up\ncontext left" in server.output


async def test_int_after_term_hurries(gunicorn):
    """The second signal ends the waiting for requests, not the cleaning up."""
    server = gunicorn("--graceful-timeout", "300", app=APP)
    async with client(server) as session:
        running = asyncio.create_task(fetch(session, "/coroutine"))
        await wait_for(server, "waiting in /coroutine")
        ws = await session.ws_connect("/echo")
        server.send_signal(signal.SIGTERM)
        assert (await ws.receive()).data == 1001
        await ws.close()
        assert not running.done()
        server.send_signal(signal.SIGINT)
        with pytest.raises(aiohttp.ClientError):
            await running
    assert await end(server) == 0
    assert server.output.count("teardown of /coroutine\n") == 1
    assert "cleaned up\ncontext left" in server.output


async def test_int_after_term_hurries_background_tasks(gunicorn):
    """A stop that waits for background tasks already is hurried too."""
    app = APP.replace("aio = AioHTTP(app)", 'aio = AioHTTP(app)\napp.config.update({\n'
                      '    "AIO_BACKGROUND_GRACE": 300})')  # fmt: skip
    server = gunicorn("--graceful-timeout", "300", app=app + """
async def tell(_):
    say("waiting for background tasks")

app.aiohttp_app.on_cleanup.insert(0, tell)
""")  # fmt: skip
    async with client(server) as session:
        assert await fetch(session, "/spawn") == (200, "spawned", None)
    server.send_signal(signal.SIGTERM)
    await wait_for(server, "waiting for background tasks")
    server.send_signal(signal.SIGINT)
    assert await end(server) == 0
    assert "background task ended\ncleaned up\ncontext left" in server.output


# A daemon


async def test_winch_stops_the_workers_of_a_daemon(tmp_path, start, is_running, wait_until):
    """The workers of a daemon end gracefully, its master stays and can start others."""
    log = tmp_path / "error.log"
    launcher = start(
        *("-m", "gunicorn", "app:app", "-k", "flask_aio_gunicorn.AioWorker", "-w", "2"),
        *("-b", "127.0.0.1:0", "--no-control-socket", "--daemon", "--pid", "pid"),
        *("--error-logfile", str(log), "--graceful-timeout", "300"),
        app=APP.replace("os.write(1,", "os.write(os.open('said', os.O_WRONLY | os.O_APPEND"
                        " | os.O_CREAT),"),
        warnings="default",
        ready=False,
    )  # fmt: skip
    assert launcher.wait() == 0
    pid_file = tmp_path / "pid"
    await asyncio.to_thread(wait_until, lambda: pid_file.exists() and pid_file.read_text().strip())
    master = int(pid_file.read_text())
    children = Path(f"/proc/{master}/task/{master}/children")
    try:
        listening = re.compile(r"Listening at: http://127.0.0.1:(\d+)")
        await asyncio.to_thread(
            wait_until,
            lambda: listening.search(log.read_text()) and len(children.read_text().split()) == 2,
        )
        port = int(listening.findall(log.read_text())[0])
        said = tmp_path / "said"
        timeout = aiohttp.ClientTimeout(total=HANG)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", timeout=timeout) as session:
            ws = await session.ws_connect("/echo")
            running = asyncio.create_task(fetch(session, "/coroutine"))
            await asyncio.to_thread(
                wait_until, lambda: said.exists() and "waiting in /coroutine" in said.read_text()
            )
            os.kill(master, signal.SIGWINCH)
            assert (await ws.receive()).data == 1001
            await ws.close()
            assert not running.done()
            (tmp_path / "go").touch()
            assert await running == (200, "finished", "close")
            await asyncio.to_thread(wait_until, lambda: not children.read_text().split())
            assert is_running(master)
            assert said.read_text().count("context left") == 2
            os.kill(master, signal.SIGTTIN)
            assert await fetch(session, "/") == (200, "index", None)
        os.kill(master, signal.SIGTERM)
        await asyncio.to_thread(wait_until, lambda: not is_running(master))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(master, signal.SIGKILL)


def test_a_worker_that_is_starting_can_be_stopped(gunicorn):
    """TERM during the start hooks ends them, cleans up and leaves no trace of an error."""
    server = gunicorn(
        *("--graceful-timeout", "300"),
        app=APP
        + """
@aio.on_startup
async def start():
    say("starting")
    await asyncio.sleep(3600)
""",
    )
    server.wait_for("starting")
    with socket.create_connection(("127.0.0.1", server.port)):
        assert server.stop(signal.SIGTERM) == 0
    assert "context left" in server.output
    assert "Traceback" not in server.output
