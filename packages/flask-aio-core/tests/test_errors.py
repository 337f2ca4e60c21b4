"""Errors of the user's code, and misuse of the extension: what is said about them, and what not."""

from __future__ import annotations

import asyncio
import logging
import sys
import traceback
from typing import Any

import pytest
from aiohttp import web
from flask import Flask, abort, g

from flask_aio_core import (
    AioError,
    AioHTTP,
    CannotSuspend,
    NotInitialized,
    NoWebSocket,
    async_,
    await_,
)


def loud(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged at WARNING or above."""
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]


def frames(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The names of the functions in the one traceback that was logged."""
    (found,) = [record.exc_info for record in caplog.records if record.exc_info]
    assert found is not None
    return [frame.name for frame in traceback.extract_tb(found[2])]


async def helper() -> None:
    await asyncio.sleep(0)
    raise LookupError("no such thing")


# --- exceptions of the user's code


async def test_exception_after_await_logs_users_frames(app, aio, serve, caplog):
    """The traceback names the coroutine view and the coroutine that it awaited."""

    @app.get("/")
    async def my_view() -> str:
        await asyncio.sleep(0)
        await helper()
        return "never"

    client = await serve(app)
    async with client.get("/") as response:
        assert response.status == 500
    names = frames(caplog)
    assert names.index("my_view") < names.index("helper")
    assert names[-1] == "helper"


async def test_exception_through_await_in_thread_logs_users_frames(app, aio, serve, caplog):
    """The traceback names the synchronous view and the coroutine that it waited for."""

    @app.get("/")
    def my_view() -> str:
        await_(helper())
        return "never"

    client = await serve(app)
    async with client.get("/") as response:
        assert response.status == 500
    names = frames(caplog)
    assert names.index("my_view") < names.index("helper")
    assert names[-1] == "helper"


async def test_exception_in_stream_logs_users_frames(app, aio, serve, caplog):
    """The traceback of an error in an async generator names that generator."""

    @app.get("/")
    async def view() -> Any:
        async def my_stream() -> Any:
            yield "first"
            await helper()

        return my_stream()

    client = await serve(app)
    async with client.get("/") as response:
        with pytest.raises(Exception, match="payload"):
            await response.read()
    names = frames(caplog)
    assert names.index("my_stream") < names.index("helper")


async def test_error_handler_catches_exception_of_coroutine(app, aio, serve, caplog):
    """A handler for an exception class answers for coroutine views as for others, unlogged."""

    @app.errorhandler(LookupError)
    def on_lookup_error(error: LookupError) -> Any:
        return f"handled {error}", 410

    @app.get("/coroutine")
    async def coroutine() -> str:
        await helper()
        return "never"

    @app.get("/sync")
    def sync() -> str:
        await_(helper())
        return "never"

    client = await serve(app)
    for path in ("/coroutine", "/sync"):
        async with client.get(path) as response:
            assert (response.status, await response.text()) == (410, "handled no such thing")
    assert loud(caplog) == []


async def test_coroutine_error_handler_catches_http_error(app, aio, serve):
    """An error handler may itself be a coroutine, for a code and for views of both kinds."""

    @app.errorhandler(403)
    async def forbidden(error: Any) -> Any:
        await asyncio.sleep(0)
        return f"sorry: {error.description}", 403

    @app.get("/coroutine")
    async def coroutine() -> str:
        await asyncio.sleep(0)
        abort(403, "members only")

    @app.get("/sync")
    def sync() -> str:
        abort(403, "members only")

    client = await serve(app)
    for path in ("/coroutine", "/sync"):
        async with client.get(path) as response:
            assert (response.status, await response.text()) == (403, "sorry: members only")


async def test_error_handler_for_500_answers_and_error_is_logged(app, aio, serve, caplog):
    """A handler for 500 gives the page; the error is logged once, with its traceback."""

    @app.errorhandler(500)
    async def broken(error: Any) -> Any:
        return f"page: {error.original_exception}", 500

    @app.get("/")
    async def view() -> str:
        await helper()
        return "never"

    client = await serve(app)
    async with client.get("/") as response:
        assert (response.status, await response.text()) == (500, "page: no such thing")
    assert frames(caplog)[-1] == "helper"


async def test_exception_in_task_group_reaches_error_handler(app, aio, serve):
    """The group of a TaskGroup's exceptions is what the error handler is given."""

    @app.errorhandler(ExceptionGroup)
    def on_group(group: ExceptionGroup[Exception]) -> Any:
        return str([str(error) for error in group.exceptions]), 409

    @app.get("/")
    async def view() -> str:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(helper())
        return "never"

    client = await serve(app)
    async with client.get("/") as response:
        assert (response.status, await response.text()) == (409, "['no such thing']")


async def test_teardown_is_given_the_exception_of_coroutine(app, aio, serve):
    """teardown_request sees the exception that the coroutine view has raised."""
    seen = []
    app.teardown_request(lambda error: seen.append(repr(error)))
    app.config["PROPAGATE_EXCEPTIONS"] = True

    @app.get("/")
    async def view() -> str:
        await helper()
        return "never"

    client = await serve(app)
    async with client.get("/") as response:
        assert response.status == 500
    assert seen == ["LookupError('no such thing')"]


# --- what is not an error


@pytest.mark.parametrize("kind", ["coroutine", "sync"])
async def test_cancellation_by_client_logs_nothing(app, aio, serve, eventually, caplog, kind):
    """A cancellable view whose client goes away is cancelled, torn down, and not reported."""
    started, ended = asyncio.Event(), []
    app.teardown_request(lambda error: ended.append("teardown"))

    async def wait_long() -> str:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return "never"

    if kind == "coroutine":
        app.add_url_rule("/", view_func=async_(cancel_on_disconnect=True)(wait_long))
    else:
        app.config["AIO_CANCEL_ON_DISCONNECT"] = True
        app.add_url_rule("/", view_func=lambda: await_(wait_long()))
    client = await serve(app)
    request = asyncio.create_task(client.get("/"))
    await started.wait()
    request.cancel()
    await eventually(lambda: "teardown" in ended)
    await client.close()
    assert ended == ["cancelled", "teardown"]
    assert loud(caplog) == []


@pytest.mark.parametrize("kind", ["coroutine", "sync"])
async def test_disconnect_from_stream_logs_nothing(app, aio, serve, eventually, caplog, kind):
    """A client that leaves a stream is no error."""
    ended = []

    async def chunks() -> Any:
        try:
            while True:
                yield b"x" * 1000
                await asyncio.sleep(0)
        finally:
            ended.append("stream")

    async def coroutine() -> Any:
        return chunks()

    def sync() -> Any:
        return chunks()

    app.add_url_rule("/", view_func=coroutine if kind == "coroutine" else sync)
    client = await serve(app)
    async with client.get("/") as response:
        await response.content.readexactly(5000)
        response.close()
    await eventually(lambda: ended)
    await client.close()
    assert loud(caplog) == []


@pytest.mark.parametrize("kind", ["coroutine", "sync"])
async def test_cancellation_by_shutdown_logs_nothing(app, aio, caplog, kind):
    """A request that outlives the grace time is cancelled and torn down without a word."""
    started, ended = asyncio.Event(), []
    app.teardown_request(lambda error: ended.append("teardown"))

    async def wait_long() -> str:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return "never"

    if kind == "coroutine":
        app.add_url_rule("/", view_func=wait_long)
    else:
        app.add_url_rule("/", view_func=lambda: await_(wait_long()))
    runner = web.AppRunner(app.aiohttp_app, shutdown_timeout=0.05)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await started.wait()
    await runner.cleanup()
    await reader.read()
    writer.close()
    assert ended == ["cancelled", "teardown"]
    assert loud(caplog) == []


# --- errors that are not meant to end the server


@pytest.mark.parametrize("argument", [None, 3, "bye"])
@pytest.mark.parametrize("path", ["/coroutine", "/sync", "/awaited"])
async def test_sys_exit_in_view_is_500_and_server_goes_on(app, aio, serve, caplog, path, argument):
    """sys.exit() ends neither the process nor the loop: it is answered and logged as an error."""

    async def leave() -> None:
        await asyncio.sleep(0)
        sys.exit(argument)

    @app.get("/coroutine")
    async def coroutine() -> str:
        await leave()
        return "never"

    @app.get("/sync")
    def sync() -> str:
        sys.exit(argument)

    @app.get("/awaited")
    def awaited() -> str:
        await_(leave())
        return "never"

    @app.get("/alive")
    async def alive() -> str:
        return "alive"

    client = await serve(app)
    async with client.get(path) as response:
        assert response.status == 500
    async with client.get("/alive") as response:
        assert (response.status, await response.text()) == (200, "alive")
    assert "SystemExit" in caplog.text


@pytest.mark.parametrize("path", ["/coroutine", "/sync"])
async def test_awaiting_a_cancelled_task_is_500(app, aio, serve, caplog, path):
    """A cancellation that comes from what the view awaited is the view's error, not an abort."""

    async def cancelled() -> str:
        task = asyncio.create_task(asyncio.sleep(60))
        task.cancel()
        await task
        return "never"

    app.add_url_rule("/coroutine", "coroutine", cancelled)
    app.add_url_rule("/sync", "sync", lambda: await_(cancelled()))
    client = await serve(app)
    async with client.get(path) as response:
        assert response.status == 500
    assert "CancelledError" in caplog.text
    async with client.get(path) as response:
        assert response.status == 500


# --- misuse


@pytest.mark.parametrize("start", ["create_task", "gather", "task_group"])
async def test_await_in_child_task_says_use_await(app, aio, serve, start):
    """await_ in a task of its own cannot work: the exception says to use 'await' there."""

    async def child() -> None:
        await_(asyncio.sleep(0))

    @app.get("/")
    async def view() -> str:
        try:
            if start == "create_task":
                await asyncio.create_task(child())
            elif start == "gather":
                await asyncio.gather(child())
            else:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(child())
        except CannotSuspend as error:
            return str(error)
        except ExceptionGroup as group:
            return str(group.exceptions[0])
        return "nothing was raised"

    client = await serve(app)
    async with client.get("/") as response:
        text = await response.text()
    assert "Use 'await' there" in text
    assert "create_task" in text


async def test_await_in_plain_coroutine_says_use_await(app, aio):
    """await_ under a loop that is not ours cannot block it, and says so."""
    with app.app_context(), pytest.raises(CannotSuspend, match="Use 'await' there"):
        await_(asyncio.sleep(0))


@pytest.mark.parametrize("kind", ["coroutine", "sync", "elsewhere"])
def test_second_await_of_a_coroutine_says_call_again(app, aio, kind):
    """A coroutine runs once: waiting for it again says to call its function again."""

    async def fetch() -> int:
        return 1

    async def coroutine() -> str:
        return twice()

    def twice() -> str:
        made = fetch()
        assert await_(made) == 1
        with pytest.raises(AioError, match=r"'.*fetch' was already awaited.*Call its function"):
            await_(made)
        return "refused"

    if kind == "elsewhere":
        with app.app_context():
            assert twice() == "refused"
        return
    app.add_url_rule("/", view_func=coroutine if kind == "coroutine" else twice)
    assert app.test_client().get("/").text == "refused"


@pytest.mark.parametrize("kind", ["coroutine", "sync"])
async def test_second_await_in_served_view_says_call_again(app, aio, serve, kind):
    """The same under the server, on both sides."""

    async def fetch() -> int:
        return 1

    def twice() -> str:
        made = fetch()
        await_(made)
        try:
            await_(made)
        except AioError as error:
            return str(error)
        return "nothing was raised"

    async def coroutine() -> str:
        return twice()

    app.add_url_rule("/", view_func=coroutine if kind == "coroutine" else twice)
    client = await serve(app)
    async with client.get("/") as response:
        text = await response.text()
    assert "fetch' was already awaited" in text
    assert "Call its function again" in text


def test_await_of_a_function_says_call_it(app, aio):
    """The usual slip, a coroutine function that was not called, is named."""

    async def fetch() -> int:
        return 1

    with pytest.raises(TypeError, match=r"cannot be awaited.*calling a coroutine function"):
        await_(fetch)  # type: ignore[arg-type]


def test_run_of_app_without_extension_says_call_aiohttp():
    """aio.run(app) on an app without the extension says how to add it."""
    with pytest.raises(NotInitialized, match=r"'plain' does not have .*AioHTTP\(app\)"):
        AioHTTP().run(Flask("plain"))


def test_run_without_any_app_says_pass_it():
    """aio.run() of an extension that has no app says to pass one."""
    with pytest.raises(NotInitialized, match=r"pass it, as in aio\.run\(app\)"):
        AioHTTP().run()


def test_run_with_several_apps_asks_which():
    """aio.run() of an extension that has two apps asks which one is meant."""
    aio = AioHTTP()
    apps = [Flask("one"), Flask("two")]
    for app in apps:
        aio.init_app(app)
    with pytest.raises(NotInitialized, match="say which one is meant"):
        aio.run()


def test_second_extension_on_one_app_is_refused(app, aio):
    """Two extensions on one app, or one twice, would bridge twice: the exception says once."""
    with pytest.raises(AioError, match=r"already has the extension.*call init_app once"):
        AioHTTP(app)
    with pytest.raises(AioError, match=r"already has the extension.*call init_app once"):
        aio.init_app(app)


@pytest.mark.parametrize("wrong", ["shop", Flask, object()])
def test_extension_on_something_else_is_refused(wrong):
    """AioHTTP(__name__) and the like are refused at once."""
    with pytest.raises(TypeError, match="AioHTTP needs a Flask app, not"):
        AioHTTP(wrong)


def test_spawn_outside_says_push_context(app, aio):
    """aio.spawn where there is no loop says so; the coroutine raises no warning of its own."""
    with pytest.raises(NotInitialized, match=r"with app\.app_context\(\)"):
        aio.spawn(asyncio.sleep(0))


async def test_spawn_of_a_function_says_call_it(app, aio):
    """aio.spawn(work) instead of aio.spawn(work()) is named."""

    async def work() -> None: ...

    with pytest.raises(TypeError, match=r"aio\.spawn\(work\(\)\)"):
        aio.spawn(work)


def test_client_outside_says_push_context(app, aio):
    """aio.client with neither server nor context says what it needs."""
    with pytest.raises(NotInitialized, match=r"with app\.app_context\(\)"):
        aio.client  # noqa: B018


def test_websocket_outside_request_says_what_to_install(app, aio):
    """aio.ws outside a request names the decorator and the package that bring a WebSocket."""
    with pytest.raises(NoWebSocket, match="pip install flask-aio-ws"):
        aio.ws  # noqa: B018


async def test_websocket_in_plain_view_says_what_to_install(app, aio, serve):
    """aio.ws in an ordinary request says the same, as the view's exception."""

    @app.errorhandler(NoWebSocket)
    def explain(error: NoWebSocket) -> Any:
        return str(error), 400

    @app.get("/")
    async def view() -> Any:
        g.ws = aio.ws
        return "never"

    client = await serve(app)
    async with client.get("/") as response:
        assert response.status == 400
        assert "@websocket" in await response.text()


@pytest.mark.parametrize("register", ["on_startup", "on_cleanup", "cleanup_ctx"])
def test_hook_that_is_no_function_is_refused(app, aio, register):
    """@aio.on_startup() with a call too many is named."""
    with pytest.raises(TypeError, match=f"aio.{register} decorates a function"):
        getattr(aio, register)("not a function")
