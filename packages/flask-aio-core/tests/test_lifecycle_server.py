"""Start and stop of a server in this process: grace, leaks, many apps, what aio.run sets up."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import threading
import types
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from flask import Flask, current_app, stream_with_context

import flask_aio_core.server as server
from flask_aio_core import AioHTTP, PatchedByGevent, await_
from flask_aio_core.bridge import BridgeGreenlet


@asynccontextmanager
async def served(app: Flask, grace: float = 30) -> AsyncIterator[tuple[web.AppRunner, str]]:
    """Serve an app as aio.run does, on a free port."""
    runner = web.AppRunner(app.aiohttp_app, shutdown_timeout=grace)  # type: ignore[attr-defined]
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield runner, f"http://{host}:{port}"
    finally:
        await runner.cleanup()


async def fetch(url: str) -> tuple[int, str]:
    """GET one URL with a client of its own."""
    async with aiohttp.ClientSession() as client, client.get(url) as response:
        return response.status, await response.text()


def full_app(name: str = "shop") -> Flask:
    """An app with views of all kinds."""
    app = Flask(name)
    aio = AioHTTP(app)

    @app.get("/coroutine")
    async def coroutine() -> str:
        await asyncio.sleep(0)
        assert not aio.client.closed
        return current_app.name

    @app.get("/sync")
    def sync() -> str:
        return await_(asyncio.sleep(0, current_app.name))

    @app.get("/stream")
    async def stream() -> Any:
        async def chunks() -> Any:
            for _ in range(3):
                await asyncio.sleep(0)
                yield "chunk "

        return chunks()

    @app.get("/sync-stream")
    def sync_stream() -> Any:
        def chunks() -> Any:
            for _ in range(3):
                yield await_(asyncio.sleep(0, "chunk "))

        return stream_with_context(chunks())

    @app.get("/endless")
    async def endless() -> Any:
        async def chunks() -> Any:
            while True:
                yield "x" * 1000
                await asyncio.sleep(0)

        return chunks()

    @app.get("/spawn")
    async def spawn() -> str:
        aio.spawn(asyncio.sleep(0))
        return "spawned"

    return app


async def visit_all(url: str) -> None:
    """Ask for each of an app's pages, and leave one stream in the middle."""
    async with aiohttp.ClientSession(url) as client:
        for path in ("/coroutine", "/sync", "/stream", "/sync-stream", "/spawn", "/nowhere"):
            async with client.get(path) as response:
                assert response.status == (404 if path == "/nowhere" else 200)
                await response.read()
        async with client.get("/endless") as response:
            await response.content.readexactly(3000)
            response.close()


# --- graceful end


@pytest.mark.parametrize("kind", ["coroutine", "sync", "stream"])
async def test_running_request_finishes_within_the_grace_time(app, aio, kind):
    """A stopping server lets what runs come to its end, and closes the connection after it."""
    started, release = asyncio.Event(), asyncio.Event()

    async def work() -> str:
        started.set()
        await release.wait()
        return "finished"

    async def coroutine() -> Any:
        return await work()

    def sync() -> Any:
        return await_(work())

    async def stream() -> Any:
        async def chunks() -> Any:
            yield await work()

        return chunks()

    app.add_url_rule("/", view_func={"coroutine": coroutine, "sync": sync, "stream": stream}[kind])
    async with served(app) as (runner, url):
        request = asyncio.create_task(fetch(url))
        await started.wait()
        stopping = asyncio.create_task(runner.cleanup())
        await asyncio.sleep(0.05)  # It would be cancelled by now, were there no grace time.
        assert not request.done()
        release.set()
        assert await request == (200, "finished")
        await stopping


@pytest.mark.parametrize("kind", ["coroutine", "sync", "stream"])
async def test_request_beyond_the_grace_time_is_cancelled_and_torn_down(app, aio, kind):
    """After the grace time the request is cancelled; finally blocks and teardown still run."""
    started, order = asyncio.Event(), []
    app.teardown_request(lambda error: order.append("teardown"))

    async def work() -> str:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # A clean-up that waits is waited for.
            order.append("finally")
        return "never"

    async def coroutine() -> Any:
        return await work()

    def sync() -> Any:
        return await_(work())

    async def stream() -> Any:
        async def chunks() -> Any:
            yield "first"
            yield await work()

        return chunks()

    app.add_url_rule("/", view_func={"coroutine": coroutine, "sync": sync, "stream": stream}[kind])
    async with served(app, grace=0.05) as (runner, url):
        request = asyncio.create_task(fetch(url))
        await started.wait()
        await runner.cleanup()
        assert order == ["finally", "teardown"]
        await asyncio.gather(request, return_exceptions=True)


async def test_new_connection_is_refused_while_stopping(app, aio):
    """A server that stops accepts no more connections, while it finishes what runs."""
    started, release = asyncio.Event(), asyncio.Event()

    @app.get("/")
    async def view() -> str:
        started.set()
        await release.wait()
        return "finished"

    async with served(app) as (runner, url):
        request = asyncio.create_task(fetch(url))
        await started.wait()
        stopping = asyncio.create_task(runner.cleanup())
        await asyncio.sleep(0)
        with pytest.raises(aiohttp.ClientConnectionError):
            await fetch(url)
        release.set()
        assert await request == (200, "finished")
        await stopping


# --- leaks


def bridges() -> int:
    gc.collect()
    return sum(isinstance(one, BridgeGreenlet) for one in gc.get_objects())


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_nothing_is_left_after_many_starts_and_stops(eventually):
    """No task, thread, file descriptor or greenlet is left, however often one app is served."""
    app = full_app()

    async def cycle() -> None:
        async with served(app) as (_, url):
            await visit_all(url)

    await cycle()  # What is made once, is made now.
    threads, files, greenlets = set(threading.enumerate()), open_files(), bridges()
    for _ in range(10):
        await cycle()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await eventually(lambda: set(threading.enumerate()) <= threads)
    await eventually(lambda: open_files() <= files)
    assert bridges() <= greenlets


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux")
async def test_nothing_is_left_after_one_stop(eventually):
    """After a stop the process is as it was before the start."""
    threads, files, greenlets = set(threading.enumerate()), open_files(), bridges()
    app = full_app()
    async with served(app) as (_, url):
        await visit_all(url)
        assert bridges() > greenlets
        assert set(threading.enumerate()) > threads
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await eventually(lambda: set(threading.enumerate()) <= threads)
    await eventually(lambda: open_files() <= files)
    assert bridges() == greenlets


async def test_private_loop_of_test_client_survives_server_cycles():
    """Flask's test client and servers of the same app may take turns."""
    app = full_app()
    for _ in range(3):
        assert await asyncio.to_thread(lambda: app.test_client().get("/coroutine").text) == "shop"
        async with served(app) as (_, url):
            assert await fetch(f"{url}/coroutine") == (200, "shop")


async def test_normal_run_logs_no_warning(caplog):
    """Starting, serving, an aborted stream and stopping log nothing at WARNING or above."""
    app = full_app()
    async with served(app) as (_, url):
        await visit_all(url)
    assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []


# --- many apps


async def test_many_apps_share_one_loop():
    """Several apps are served in one loop; each request knows its own."""
    apps = [full_app(f"app{number}") for number in range(3)]
    async with served(apps[0]) as (_, a), served(apps[1]) as (_, b), served(apps[2]) as (_, c):
        for path in ("/coroutine", "/sync"):
            found = await asyncio.gather(*(fetch(url + path) for url in (a, b, c) * 3))
            assert found == [(200, name) for name in ("app0", "app1", "app2") * 3]


async def test_one_app_is_served_by_two_servers_of_one_loop(app, aio):
    """The same app may be served twice at once, each server with its own start hooks."""
    starts = []
    aio.on_startup(lambda: starts.append("start"))
    app.add_url_rule("/", view_func=lambda: await_(asyncio.sleep(0, "index")))
    from flask_aio_core.application import build_application

    second = web.AppRunner(build_application(app))
    async with served(app) as (_, url):
        await second.setup()
        await web.TCPSite(second, "127.0.0.1", 0).start()
        host, port = second.addresses[0][:2]
        assert await fetch(url) == (200, "index")
        assert await fetch(f"http://{host}:{port}") == (200, "index")
        await second.cleanup()
        assert await fetch(url) == (200, "index")
    assert starts == ["start", "start"]


def test_apps_are_served_by_loops_in_several_threads():
    """Loops of several threads each serve an app at the same time, and leave nothing behind."""
    before = set(threading.enumerate())
    barrier = threading.Barrier(3, timeout=60)
    found: list[Any] = []

    async def main(name: str) -> None:
        async with served(full_app(name)) as (_, url):
            await asyncio.to_thread(barrier.wait)  # All are serving now.
            for path in ("/coroutine", "/sync"):
                found.append((await fetch(url + path), name))
            await visit_all(url)
            await asyncio.to_thread(barrier.wait)

    threads = [
        threading.Thread(target=asyncio.run, args=(main(f"app{number}"),)) for number in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert sorted(found) == sorted(
        ((200, name), name) for name in ("app0", "app1", "app2") for _ in range(2)
    )
    left = [one for one in threading.enumerate() if one not in before]
    for thread in left:
        thread.join(10)
    assert not any(thread.is_alive() for thread in left)


def test_import_and_init_start_neither_thread_nor_loop():
    """Adding the extension starts nothing: a server may fork afterwards."""
    threads, files = set(threading.enumerate()), open_files()
    full_app()
    assert set(threading.enumerate()) == threads
    assert open_files() == files
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


# --- gevent


@pytest.fixture
def gevent_patched(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make the process look as if gevent's monkey.patch_all() had been called, when called."""
    monkey = types.ModuleType("gevent.monkey")
    patched: set[str] = set()
    monkey.is_module_patched = patched.__contains__  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gevent.monkey", monkey)
    return lambda: patched.update({"socket", "threading", "select", "thread"})


def test_gevent_that_has_patched_is_refused_in_one_sentence(app, gevent_patched):
    """AioHTTP(app) in a patched process says what is wrong and what to do, in one sentence."""
    gevent_patched()
    with pytest.raises(PatchedByGevent, match=r"^This process was patched by gevent .*: remove"):
        AioHTTP(app)


def test_gevent_that_is_only_imported_is_accepted(app, gevent_patched):
    """gevent that has patched nothing does no harm."""
    AioHTTP(app)


async def test_gevent_that_patches_later_is_refused_when_serving(app, aio, gevent_patched):
    """A process that is patched after AioHTTP(app) is refused when the server starts."""
    gevent_patched()
    runner = web.AppRunner(app.aiohttp_app)
    with pytest.raises(PatchedByGevent, match="patched by gevent"):
        await runner.setup()
    await runner.cleanup()


# --- what aio.run sets up


class StopHere(Exception):
    """Raised in place of serving."""


@pytest.fixture
def server_arguments(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Record what aio.run gives to its HTTP server, and the grace with which it stops it."""
    recorded: dict[str, Any] = {}

    class Recorder:
        def __init__(self, application: web.Application, **arguments: Any) -> None:
            recorded.update(arguments, loop=asyncio.get_running_loop())

        async def start(self) -> None:
            raise StopHere

        async def stop(self, grace: float) -> None:
            recorded["grace"] = grace

    monkeypatch.setattr("flask_aio_core.server.HTTPServer", Recorder)
    return recorded


def test_run_keeps_idle_connections_75_seconds(app, aio, server_arguments):
    """Longer than a load balancer's 60 s: the balancer, never the server, closes first."""
    with pytest.raises(StopHere):
        aio.run(port=0, load_dotenv=False)
    assert server_arguments["keepalive"] == 75
    assert server_arguments["grace"] == 30


def test_run_takes_keepalive_and_grace_from_config(app, aio, server_arguments):
    """AIO_KEEPALIVE and AIO_SHUTDOWN_GRACE change them."""
    app.config.update(AIO_KEEPALIVE=7, AIO_SHUTDOWN_GRACE=3)
    with pytest.raises(StopHere):
        aio.run(port=0, load_dotenv=False)
    assert server_arguments["keepalive"] == 7
    assert server_arguments["grace"] == 3


def test_run_without_access_log_gives_none(app, aio, server_arguments):
    """access_log=False turns aiohttp's access log off."""
    with pytest.raises(StopHere):
        aio.run(port=0, load_dotenv=False, access_log=False)
    assert server_arguments["access_log"] is None


class UvLoop(asyncio.SelectorEventLoop):
    """Stands for uvloop, which the tests of this package do without."""


@pytest.fixture
def uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("uvloop")
    module.new_event_loop = UvLoop  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "uvloop", module)


@pytest.mark.parametrize(("wish", "used"), [(None, True), (True, True), (False, False)])
@pytest.mark.usefixtures("uvloop")
def test_run_uses_installed_uvloop_unless_told_otherwise(app, aio, server_arguments, wish, used):
    """uvloop is used where it is installed; uvloop=False does without."""
    with pytest.raises(StopHere):
        aio.run(port=0, load_dotenv=False, uvloop=wish)
    assert isinstance(server_arguments["loop"], UvLoop) is used


def test_run_without_uvloop_uses_asyncio(app, aio, server_arguments, monkeypatch):
    """Where uvloop is not installed nothing is missing."""
    monkeypatch.setitem(sys.modules, "uvloop", None)
    with pytest.raises(StopHere):
        aio.run(port=0, load_dotenv=False)
    assert isinstance(server_arguments["loop"], asyncio.BaseEventLoop)


def test_run_that_insists_on_missing_uvloop_says_how_to_install(app, aio, monkeypatch):
    """uvloop=True without uvloop names the extra to install."""
    monkeypatch.setitem(sys.modules, "uvloop", None)
    with pytest.raises(ImportError, match=r"pip install 'flask-aio-core\[speedups\]'"):
        aio.run(port=0, load_dotenv=False, uvloop=True)


@pytest.mark.parametrize(
    ("server_name", "arguments", "expected"),
    [
        (None, {}, ("127.0.0.1", 5000)),
        (None, {"host": "::1", "port": 80}, ("::1", 80)),
        (None, {"port": 0}, ("127.0.0.1", 0)),
        (None, {"port": "8000"}, ("127.0.0.1", 8000)),
        ("shop.test:8080", {}, ("shop.test", 8080)),
        ("shop.test", {}, ("shop.test", 5000)),
        ("shop.test:8080", {"host": "0.0.0.0"}, ("0.0.0.0", 8080)),
        ("shop.test:8080", {"port": 9000}, ("shop.test", 9000)),
        ("shop.test:8080", {"port": 0}, ("shop.test", 0)),
    ],
)
def test_run_chooses_host_and_port_as_flask_does(
    app, aio, monkeypatch, server_name, arguments, expected
):
    """Arguments come first, then SERVER_NAME, then 127.0.0.1 and 5000: exactly as app.run()."""
    chosen = []
    app.config["SERVER_NAME"] = server_name

    def ours(host: str, port: int, path: Any) -> None:
        chosen.append((host, port))
        raise StopHere

    def theirs(host: str, port: int, *_: Any, **__: Any) -> None:
        chosen.append((host, port))

    monkeypatch.setattr(server, "listening_socket", ours)
    monkeypatch.setattr("werkzeug.serving.run_simple", theirs)
    with pytest.raises(StopHere):
        aio.run(**arguments, load_dotenv=False)
    app.run(**arguments, load_dotenv=False)
    assert chosen == [expected, expected]


@pytest.mark.parametrize(
    ("debug", "expected"), [(None, False), (True, True), (False, False), (1, True)]
)
def test_run_sets_debug_as_flask_does(app, aio, server_arguments, monkeypatch, debug, expected):
    """debug= switches the app's debug mode; without it nothing changes."""
    monkeypatch.delenv("FLASK_DEBUG", raising=False)
    with pytest.raises(StopHere):
        aio.run(port=0, debug=debug, load_dotenv=False, use_reloader=False)
    assert app.debug is expected


def test_run_inside_flask_command_only_says_so(app, aio, server_arguments, monkeypatch, capsys):
    """aio.run() at import by a 'flask' command is ignored, with a hint, as app.run() is."""
    monkeypatch.setenv("FLASK_RUN_FROM_CLI", "true")
    aio.run()
    assert server_arguments == {}
    assert "Only call aio.run() below 'if __name__ == \"__main__\":'" in capsys.readouterr().out


def test_run_refuses_a_lone_file_as_ssl_context(app, aio):
    """ssl_context takes a context, a pair of files or 'adhoc': one file is named as wrong."""
    with pytest.raises(ValueError, match=r"pair of files, or 'adhoc', not 'cert\.pem'"):
        aio.run(port=0, load_dotenv=False, ssl_context="cert.pem")
