"""The same app without our server: Flask's test client, and aiohttp's in pytest."""

from __future__ import annotations

import asyncio
import gc
import io
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import (
    Flask,
    Response,
    abort,
    current_app,
    g,
    has_request_context,
    request,
    send_file,
    session,
    stream_with_context,
)
from flask.testing import FlaskClient

from flask_aio_core import AioHTTP, await_, in_thread

PRIVATE_LOOP = "flask-aio-private-loop"


@pytest.fixture
def order(app: Flask, aio: AioHTTP) -> list[str]:
    """Give the app views and hooks of all kinds; return the list in which the hooks write."""
    order: list[str] = []

    @app.before_request
    async def before() -> None:
        await asyncio.sleep(0)
        g.user = request.args.get("user", "nobody")
        order.append("before")

    @app.after_request
    async def after(response: Response) -> Response:
        await asyncio.sleep(0)
        response.headers["X-After"] = "after"
        order.append("after")
        return response

    @app.teardown_request
    async def teardown(error: BaseException | None) -> None:
        await asyncio.sleep(0)
        order.append(f"teardown {type(error).__name__}")

    @app.get("/coroutine")
    async def coroutine() -> Any:
        await asyncio.sleep(0)
        return {"user": g.user, "path": request.path}

    @app.get("/sync")
    def sync() -> Any:
        return {"user": await_(asyncio.sleep(0, g.user)), "path": request.path}

    @app.get("/generator")
    async def generator() -> Any:
        async def chunks() -> Any:
            for number in range(3):
                await asyncio.sleep(0)
                yield f"{request.path} {g.user} {number}\n"
            order.append("stream ended")

        return chunks()

    @app.get("/with-context")
    def with_context() -> Any:
        def chunks() -> Iterator[str]:
            yield f"{request.path} "
            yield await_(asyncio.sleep(0, g.user))

        return stream_with_context(chunks())

    @app.get("/with-context-coroutine")
    async def with_context_coroutine() -> Any:
        def chunks() -> Iterator[str]:
            yield f"{request.path} "
            yield await_(asyncio.sleep(0, g.user))

        return stream_with_context(chunks())

    @app.get("/file")
    async def file() -> Any:
        await asyncio.sleep(0)
        return send_file(io.BytesIO(b"content of a file"), mimetype="text/plain")

    @app.get("/file-on-disk")
    async def file_on_disk() -> Any:
        await asyncio.sleep(0)
        return send_file(__file__, mimetype="text/plain")

    @app.get("/failing")
    async def failing() -> Any:
        await asyncio.sleep(0)
        raise LookupError("no such thing")

    @app.get("/forbidden")
    async def forbidden() -> Any:
        await asyncio.sleep(0)
        abort(403)

    @app.post("/form")
    async def form() -> Any:
        session["name"] = request.form["name"]
        return in_thread(lambda: session["name"])()

    return order


def check_coroutine_and_hooks(client: FlaskClient, order: list[str]) -> None:
    response = client.get("/coroutine?user=anna")
    assert response.json == {"user": "anna", "path": "/coroutine"}
    assert response.headers["X-After"] == "after"
    assert order == ["before", "after", "teardown NoneType"]


def check_sync(client: FlaskClient, order: list[str]) -> None:
    assert client.get("/sync?user=anna").json == {"user": "anna", "path": "/sync"}
    assert order == ["before", "after", "teardown NoneType"]


def check_async_generator(client: FlaskClient, order: list[str]) -> None:
    response = client.get("/generator?user=anna")
    assert response.text == "/generator anna 0\n/generator anna 1\n/generator anna 2\n"
    response.close()
    assert order == ["before", "after", "stream ended", "teardown NoneType"]


def check_stream_that_was_read_but_not_closed(client: FlaskClient, order: list[str]) -> None:
    assert client.get("/generator").text.startswith("/generator")
    assert order == ["before", "after", "stream ended", "teardown NoneType"]
    assert not has_request_context()


def check_streams_with_context(client: FlaskClient, order: list[str]) -> None:
    for path in ("/with-context", "/with-context-coroutine"):
        assert client.get(f"{path}?user=anna").text == f"{path} anna"


def check_unfinished_stream(client: FlaskClient, order: list[str]) -> None:
    response = client.get("/generator")
    chunks = response.iter_encoded()
    assert next(chunks) == b"/generator nobody 0\n"
    assert "teardown NoneType" not in order
    response.close()
    assert order == ["before", "after", "teardown NoneType"]


def check_files(client: FlaskClient, order: list[str]) -> None:
    for path, headers, status, content in (
        ("/file", {}, 200, b"content of a file"),
        ("/file-on-disk", {}, 200, Path(__file__).read_bytes()),
        ("/file-on-disk", {"Range": "bytes=3-9"}, 206, Path(__file__).read_bytes()[3:10]),
    ):
        response = client.get(path, headers=headers)
        assert (response.status_code, response.data) == (status, content)
        response.close()


def check_errors(client: FlaskClient, order: list[str]) -> None:
    assert client.get("/failing").status_code == 500
    assert client.get("/forbidden").status_code == 403
    assert client.get("/nowhere").status_code == 404
    client.application.testing = True
    order.clear()
    with pytest.raises(LookupError, match="no such thing"):
        client.get("/failing")
    assert order == ["before", "teardown LookupError"]


def check_form_and_session(client: FlaskClient, order: list[str]) -> None:
    assert client.post("/form", data={"name": "anna"}).text == "anna"
    with client.session_transaction() as stored:
        assert stored["name"] == "anna"


def check_preserved_context(client: FlaskClient, order: list[str]) -> None:
    with client:
        for path in ("/coroutine", "/sync", "/generator"):
            assert client.get(f"{path}?user=anna").text
            assert request.path == path
            assert g.user == "anna"
            assert current_app.name == "shop"
        client.post("/form", data={"name": "berta"})
        assert session["name"] == "berta"
    assert not has_request_context()


Check = Callable[[FlaskClient, list[str]], None]
CHECKS = [
    check_coroutine_and_hooks,
    check_sync,
    check_async_generator,
    check_stream_that_was_read_but_not_closed,
    check_streams_with_context,
    check_unfinished_stream,
    check_files,
    check_errors,
    check_form_and_session,
    check_preserved_context,
]


@pytest.mark.parametrize("check", CHECKS)
def test_test_client_without_a_loop_behaves_as_with_flask(app, order, check: Check):
    """Flask's test client runs coroutine views, hooks, streams, files and errors."""
    check(app.test_client(), order)


@pytest.mark.parametrize("check", CHECKS)
async def test_test_client_inside_a_running_loop_behaves_as_with_flask(app, order, check: Check):
    """The same in an async test, where the loop that runs cannot be waited for."""
    check(app.test_client(), order)


def test_asgiref_is_not_needed(app, order, monkeypatch):
    """Coroutine views run although asgiref, which plain Flask needs, cannot be imported."""
    monkeypatch.setitem(sys.modules, "asgiref", None)
    monkeypatch.delitem(sys.modules, "asgiref.sync", raising=False)
    with pytest.raises(RuntimeError, match="async"):
        Flask("plain").async_to_sync(asyncio.sleep)
    assert app.test_client().get("/coroutine").status_code == 200


def test_synchronous_requests_start_no_loop(app, aio):
    """An app that waits for nothing gets no private runtime, so no start hook runs."""
    started = []
    aio.on_startup(lambda: started.append("started"))
    app.add_url_rule("/", view_func=lambda: "plain")
    assert app.test_client().get("/").text == "plain"
    assert started == []


def test_hooks_and_views_run_on_one_private_loop(app, aio):
    """Start hooks run once, on the loop on which the coroutine views run, in the app context."""
    seen: list[Any] = []

    def note() -> None:
        name = threading.current_thread().name
        seen.append((asyncio.get_running_loop(), name, current_app.name))

    @aio.cleanup_ctx
    async def context() -> Any:
        note()
        yield

    @aio.on_startup
    async def startup() -> None:
        note()

    @app.get("/")
    async def view() -> str:
        note()
        return "done"

    client = app.test_client()
    client.get("/")
    client.get("/")
    assert len(seen) == 4
    assert len(set(seen)) == 1
    assert seen[0][1:] == (PRIVATE_LOOP, "shop")


def test_close_runs_cleanup_hooks_and_next_use_starts_anew(app, aio):
    """aio.close() undoes what the private loop was used for; it may be called again and again."""
    order = []

    @aio.cleanup_ctx
    async def context() -> Any:
        order.append("enter")
        yield
        order.append("leave")

    aio.on_startup(lambda: order.append("startup"))
    aio.on_cleanup(lambda: order.append("cleanup"))

    @app.get("/")
    async def view() -> str:
        order.append("view")
        return "done"

    aio.close()
    for _ in range(2):
        app.test_client().get("/")
        aio.close()
        aio.close()
    assert order == ["enter", "startup", "view", "cleanup", "leave"] * 2


def test_failing_start_hook_reaches_the_caller_and_is_tried_again(app, aio):
    """A start hook that fails fails the request that needed it; the next one tries again."""
    failures = [ConnectionError("no database"), None]

    @aio.on_startup
    async def startup() -> None:
        failure = failures.pop(0)
        if failure is not None:
            raise failure

    @app.get("/")
    async def view() -> str:
        return "done"

    app.testing = True
    client = app.test_client()
    with pytest.raises(ConnectionError, match="no database"):
        client.get("/")
    gc.collect()  # A coroutine that was left behind would raise a warning now.
    assert client.get("/").text == "done"
    aio.close()


def test_shared_client_and_spawn_work_without_a_server(app, aio):
    """aio.client and aio.spawn use the private loop, under an app context."""
    with app.app_context():
        assert not aio.client.closed
        client = aio.client
        assert aio.client is client
        done = threading.Event()

        async def work() -> None:
            assert threading.current_thread().name == PRIVATE_LOOP
            done.set()

        aio.spawn(work())
        assert done.wait(30)
    aio.close()
    assert client.closed


def test_command_may_wait(app, aio):
    """await_ works in a command of the app's CLI, which runs in the app context."""

    @app.cli.command("greet")
    def greet() -> None:
        print(await_(asyncio.sleep(0, "hello")))  # noqa: T201

    result = app.test_cli_runner().invoke(args=["greet"])
    assert (result.exit_code, result.output) == (0, "hello\n")


def test_coroutine_command_is_run_by_ensure_sync(app, aio):
    """A command may call the app's own ensure_sync on a coroutine function."""

    async def greet() -> str:
        await asyncio.sleep(0)
        return current_app.name

    with app.app_context():
        assert app.ensure_sync(greet)() == "shop"


def test_many_threads_share_the_private_loop(app, aio):
    """Threads of another server each serve a request at a time, on one loop."""
    barrier = threading.Barrier(4, timeout=30)
    loops, errors = set(), []

    @app.get("/")
    async def view() -> str:
        loops.add(asyncio.get_running_loop())
        await asyncio.to_thread(barrier.wait)
        return "done"

    def use() -> None:
        if app.test_client().get("/").text != "done":
            errors.append("failed")

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (len(loops), errors) == (1, [])


# --- pytest-aiohttp on one app of a module, as a user's test-suite has it

module_app = Flask("module")
module_aio = AioHTTP(module_app)
module_starts: list[str] = []


@module_aio.on_startup
async def _started() -> None:
    module_starts.append("started")


@module_app.get("/")
async def _index() -> str:
    await asyncio.sleep(0)
    return "index"


@pytest.mark.parametrize("turn", [1, 2, 3])
async def test_aiohttp_client_serves_module_level_app_in_every_test(aiohttp_client, turn):
    """pytest-aiohttp's client takes app.aiohttp_app, test after test."""
    before = len(module_starts)
    client = await aiohttp_client(module_app.aiohttp_app)  # type: ignore[attr-defined]
    response = await client.get("/")
    assert await response.text() == "index"
    assert len(module_starts) == before + 1


async def test_aiohttp_client_serves_app_twice_in_one_test(aiohttp_client):
    """A server that was stopped leaves the app ready for the next one."""
    for _ in range(2):
        client = await aiohttp_client(module_app.aiohttp_app)  # type: ignore[attr-defined]
        assert await (await client.get("/")).text() == "index"
        await client.close()


async def test_test_client_works_while_a_server_runs(serve):
    """Under a running server Flask's test client may be used from a thread, on that loop."""
    await serve(module_app)
    response = await asyncio.to_thread(module_app.test_client().get, "/")
    assert response.text == "index"
