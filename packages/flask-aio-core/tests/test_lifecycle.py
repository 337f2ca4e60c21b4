"""The hooks that run when a server starts and stops."""

from __future__ import annotations

import asyncio
import functools
import threading
from contextlib import asynccontextmanager, contextmanager

import pytest
from aiohttp.test_utils import TestClient, TestServer
from flask import Flask, current_app, has_request_context

from flask_aio_core import AioHTTP, await_, in_thread


@pytest.fixture
def record():
    """What has happened, in order."""
    return []


async def test_hooks_run_once_in_order_and_the_clean_up_hooks_in_reverse(app, aio, serve, record):
    """Contexts, start hooks, requests, then clean-up hooks and contexts, the last one first."""

    def context(name):
        async def enter():
            record.append(f"enter {name}")
            await asyncio.sleep(0)
            yield
            await asyncio.sleep(0)
            record.append(f"leave {name}")

        return enter

    def hook(name):
        async def coroutine():
            await asyncio.sleep(0)
            record.append(name)

        return coroutine

    aio.on_cleanup(hook("clean-up 1"))
    aio.on_startup(hook("start 1"))
    aio.cleanup_ctx(context("1"))
    aio.on_startup(lambda: record.append("start 2"))
    aio.on_cleanup(lambda: record.append("clean-up 2"))
    aio.cleanup_ctx(context("2"))
    app.add_url_rule("/", "index", lambda: record.append("request") or "ok")
    assert record == []
    client = await serve(app)
    started = ["enter 1", "enter 2", "start 1", "start 2"]
    assert record == started
    for _ in range(2):
        assert (await client.get("/")).status == 200
    await client.close()
    assert record == [
        *started,
        "request",
        "request",
        "clean-up 2",
        "clean-up 1",
        "leave 2",
        "leave 1",
    ]


@pytest.mark.parametrize("form", ["function", "coroutine", "callable object", "partial"])
@pytest.mark.parametrize("kind", ["on_startup", "on_cleanup"])
@pytest.mark.parametrize("takes_app", [True, False], ids=["app", "no app"])
async def test_hook_of_each_form_is_called_with_or_without_the_app(
    app, aio, serve, record, form, kind, takes_app
):
    """A hook gets the Flask app if it has a parameter; it may be of any callable form."""

    def note(given):
        record.append((given is app, current_app.name, has_request_context()))

    async def note_later(given):
        await asyncio.sleep(0)
        note(given)

    class WithApp:
        async def __call__(self, given):
            await note_later(given)

    class WithoutApp:
        async def __call__(self):
            await note_later(app)

    async def coroutine():
        await note_later(app)

    with_app = {
        "function": note,
        "coroutine": note_later,
        "callable object": WithApp(),
        "partial": functools.partial(note_later),
    }
    without_app = {
        "function": lambda: note(app),
        "coroutine": coroutine,
        "callable object": WithoutApp(),
        "partial": functools.partial(note_later, app),
    }
    hook = (with_app if takes_app else without_app)[form]
    assert getattr(aio, kind)(hook) is hook
    client = await serve(app)
    await client.close()
    assert record == [(True, "shop", False)]


@pytest.mark.parametrize("form", ["generator", "asynccontextmanager"])
@pytest.mark.parametrize("takes_app", [True, False])
async def test_cleanup_context_runs_on_the_loop_inside_the_app_context(
    app, aio, serve, record, form, takes_app
):
    """Both halves of a cleanup context see current_app and run on the loop of the requests."""
    if takes_app:

        async def context(given):
            record.append((given.name, current_app.name, asyncio.get_running_loop()))
            yield
            record.append((given.name, current_app.name, asyncio.get_running_loop()))
    else:

        async def context():  # type: ignore[misc]
            record.append(("shop", current_app.name, asyncio.get_running_loop()))
            yield
            record.append(("shop", current_app.name, asyncio.get_running_loop()))

    aio.cleanup_ctx(context if form == "generator" else asynccontextmanager(context))
    client = await serve(app)
    assert record == [("shop", "shop", asyncio.get_running_loop())]
    await client.close()
    assert record == [("shop", "shop", asyncio.get_running_loop())] * 2


async def test_hooks_may_wait_in_synchronous_code(app, aio, serve, record):
    """await_ and in_thread work in start hooks, clean-up hooks and cleanup contexts."""

    def wait(name):
        record.append(await_(asyncio.sleep(0, name)))
        record.append(in_thread(threading.current_thread)() is not main)

    main = threading.current_thread()

    @aio.cleanup_ctx
    async def context():
        wait("enter")
        yield
        wait("leave")

    @aio.on_startup
    def start():
        wait("start")

    @aio.on_startup
    async def start_later():
        wait("start later")

    @aio.on_cleanup
    def clean_up():
        wait("clean up")

    client = await serve(app)
    await client.close()
    assert record == [
        one
        for name in ("enter", "start", "start later", "clean up", "leave")
        for one in (name, True)
    ]


@pytest.mark.parametrize("where", ["second context", "start hook"])
async def test_error_at_start_leaves_what_was_entered(app, aio, record, where):
    """If a start hook fails, the server does not start and what was entered before is left."""

    @aio.cleanup_ctx
    async def first():
        record.append("enter")
        yield
        record.append("leave")

    @aio.cleanup_ctx
    async def second():
        if where == "second context":
            raise KeyError("no database")
        yield
        record.append("leave second")

    @aio.on_startup
    def start():
        record.append("start")
        raise KeyError("no database")

    client = TestClient(TestServer(app.aiohttp_app))
    with pytest.raises(KeyError, match="no database"):
        await client.start_server()
    await client.close()
    if where == "second context":
        assert record == ["enter", "leave"]
    else:
        assert record == ["enter", "start", "leave second", "leave"]


async def test_app_can_be_served_after_a_start_that_failed(app, aio, serve, record):
    """A failed start leaves no half-started server behind: the next one answers requests."""
    fail = True

    @aio.on_startup
    def start():
        if fail:
            raise KeyError("no database")

    app.add_url_rule("/", "index", lambda: "ok")
    client = TestClient(TestServer(app.aiohttp_app))
    with pytest.raises(KeyError):
        await client.start_server()
    await client.close()
    fail = False
    client = await serve(app)
    assert await (await client.get("/")).text() == "ok"


async def test_error_in_one_clean_up_hook_does_not_keep_the_others_from_running(app, aio, record):
    """All clean-up hooks and contexts run, then the error is raised."""

    @aio.cleanup_ctx
    async def context():
        yield
        record.append("context")

    aio.on_cleanup(lambda: record.append("first"))

    @aio.on_cleanup
    async def second():
        record.append("second")
        raise KeyError("broken")

    client = TestClient(TestServer(app.aiohttp_app))
    await client.start_server()
    http = aio.client
    with pytest.raises(KeyError, match="broken"):
        await client.close()
    assert record == ["second", "first", "context"]
    assert http.closed


async def test_error_in_one_context_is_not_thrown_into_the_others(app, aio, record):
    """A cleanup context that fails at the end leaves the code after the others' yield to run."""

    @aio.cleanup_ctx
    async def first():
        yield
        record.append("first")

    @aio.cleanup_ctx
    async def second():
        yield
        record.append("second")
        raise KeyError("broken")

    client = TestClient(TestServer(app.aiohttp_app))
    await client.start_server()
    with pytest.raises(KeyError, match="broken"):
        await client.close()
    assert record == ["second", "first"]


async def test_errors_of_several_clean_up_hooks_are_raised_as_a_group(app, aio):
    """Where more than one clean-up hook fails, no error hides another."""

    @aio.cleanup_ctx
    async def context():
        yield
        raise KeyError("context")

    @aio.on_cleanup
    def clean_up():
        raise ValueError("hook")

    client = TestClient(TestServer(app.aiohttp_app))
    await client.start_server()
    with pytest.raises(ExceptionGroup) as raised:
        await client.close()
    assert list(map(repr, raised.value.exceptions)) == ["ValueError('hook')", "KeyError('context')"]


async def test_client_and_background_tasks_may_be_used_by_all_hooks(app, aio, serve, record):
    """aio.client and aio.spawn work from the first start hook to the last clean-up hook."""

    async def work(name):
        await asyncio.sleep(0)
        record.append(name)

    @aio.cleanup_ctx
    async def context():
        record.append(aio.client)
        await aio.spawn(work("enter"))
        yield
        await aio.spawn(work("leave"))
        record.append(aio.client)

    client = await serve(app)
    await client.close()
    http, *names, last = record
    assert names == ["enter", "leave"]
    assert last is http


@pytest.mark.parametrize("kind", ["cleanup_ctx", "on_startup", "on_cleanup"])
@pytest.mark.parametrize("value", [None, 1, "start"])
def test_hook_that_is_not_callable_is_refused(aio, kind, value):
    """Registering anything but a function raises a TypeError that names the decorator."""
    with pytest.raises(TypeError, match=rf"aio\.{kind} decorates a function"):
        getattr(aio, kind)(value)


async def test_hooks_registered_before_and_after_init_app_both_run(serve, record):
    """In a factory, hooks of the extension object apply to each app that it is added to."""
    aio = AioHTTP()

    @aio.on_startup
    def early(app):
        record.append(("early", app.name))

    apps = [Flask("a"), Flask("b")]
    for app in apps:
        aio.init_app(app)

    @aio.on_startup
    def late(app):
        record.append(("late", app.name))

    for app in apps:
        await serve(app)
    assert record == [("early", "a"), ("late", "a"), ("early", "b"), ("late", "b")]


async def test_hooks_run_again_for_the_next_server_of_the_app(app, aio, serve, record):
    """An app that is served a second time gets its start and clean-up hooks a second time."""

    @aio.cleanup_ctx
    async def context():
        record.append("enter")
        yield
        record.append("leave")

    for _ in range(2):
        client = await serve(app)
        await client.close()
    assert record == ["enter", "leave", "enter", "leave"]


def test_hooks_run_once_for_an_app_that_is_used_without_a_server(app, aio, record):
    """Under the test client hooks run at the first use of the loop, and aio.close() ends them."""

    @aio.cleanup_ctx
    async def context():
        record.append("enter")
        yield
        record.append("leave")

    @app.get("/")
    async def index():
        return "ok"

    assert record == []
    client = app.test_client()
    for _ in range(2):
        assert client.get("/").text == "ok"
    assert record == ["enter"]
    aio.close()
    aio.close()
    assert record == ["enter", "leave"]


async def test_context_that_yields_twice_is_an_error_of_its_own(app, aio, record):
    """A cleanup context that does not end after its yield is reported when the server stops."""

    @aio.cleanup_ctx
    async def context():
        yield
        yield

    client = TestClient(TestServer(app.aiohttp_app))
    await client.start_server()
    with pytest.raises(RuntimeError, match="didn't stop"):
        await client.close()


async def test_synchronous_context_manager_is_refused_at_start(app, aio):
    """A cleanup context that is not asynchronous keeps the server from starting."""

    @aio.cleanup_ctx
    @contextmanager
    def context():
        yield

    client = TestClient(TestServer(app.aiohttp_app))
    with pytest.raises((TypeError, AttributeError)):
        await client.start_server()
    await client.close()
