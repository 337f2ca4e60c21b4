"""The greenlets between synchronous code and the event loop."""

from __future__ import annotations

import asyncio
import gc
import inspect
import threading
import traceback
import types
import weakref
from collections.abc import Awaitable
from contextvars import ContextVar, copy_context
from typing import Any

import greenlet
import pytest
from flask import request

from flask_aio_core import AioError, CannotSuspend, await_, in_thread
from flask_aio_core.bridge import (
    GreenletPool,
    can_suspend,
    current_bridge,
    drive,
    run_in_thread,
    run_on_loop,
    suspend,
)
from flask_aio_core.runtime import Runtime
from flask_aio_core.state import get_state

user = ContextVar("user", default="nobody")

SIDES = pytest.mark.parametrize("side", ["loop", "thread"])


@pytest.fixture
async def runtime(app, aio):
    """A running runtime of the app, without a server."""
    runtime = Runtime(app, get_state(app).lifecycle)
    await runtime.start()
    yield runtime
    await runtime.stop()


@pytest.fixture
def run(runtime):
    """Run a synchronous function on a greenlet of the loop, or of a thread; await its result."""
    threads: list[GreenletPool] = []

    async def start(function, *, side="loop", context=None):
        context = context or copy_context()
        if side == "loop":
            return await run_on_loop(runtime, function, context)

        def work():
            pool = GreenletPool(runtime)
            threads.append(pool)
            try:
                return run_in_thread(pool, function, context, runtime.wait)
            finally:
                pool.close()

        return await asyncio.to_thread(work)

    return start


class Thing:
    """Something that a weak reference can be made to."""


class Broken(ValueError):
    """An error that a weak reference can be made to."""


def sqlalchemy_await(awaitable):
    """Wait as SQLAlchemy's await_only does: by a switch to the parent of a marked greenlet."""
    current = greenlet.getcurrent()
    if not getattr(current, "__sqlalchemy_greenlet_provider__", False):
        raise RuntimeError("MissingGreenlet")
    assert current.parent is not None
    return current.parent.switch(awaitable)


@SIDES
async def test_function_returns_its_result_and_waits_in_between(run, side):
    """A bridged function returns what it returns, waits included; so does one that never waits."""

    def wait():
        return [await_(asyncio.sleep(0, n)) for n in range(3)]

    assert await run(wait, side=side) == [0, 1, 2]
    assert await run(lambda: "at once", side=side) == "at once"


@SIDES
async def test_function_may_wait_for_every_kind_of_awaitable(run, side):
    """Coroutines, futures, tasks and objects with __await__ can all be waited for."""
    loop = asyncio.get_running_loop()

    class Custom:
        def __await__(self):
            yield from asyncio.sleep(0).__await__()
            return "custom"

    @types.coroutine
    def legacy():
        yield
        return "legacy"

    future = loop.create_future()
    loop.call_soon(future.set_result, "future")
    task = loop.create_task(asyncio.sleep(0, "task"))

    def wait():
        return [await_(one) for one in (future, task, Custom(), legacy(), asyncio.sleep(0, "x"))]

    assert await run(wait, side=side) == ["future", "task", "custom", "legacy", "x"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
async def test_error_of_any_class_crosses_the_bridge_and_leaves_the_greenlet_usable(runtime, error):
    """Whatever a function raises reaches the awaiting task, and its greenlet runs the next one."""
    raised = error("crossing")

    def fail():
        bridges.append(current_bridge())
        await_(asyncio.sleep(0))
        raise raised

    bridges: list[Any] = []
    caught = None
    try:
        await run_on_loop(runtime, fail, copy_context())
    except BaseException as got:
        caught = got
    assert caught is raised
    assert await run_on_loop(runtime, current_bridge, copy_context()) is bridges[0]
    assert len(runtime.greenlets) == 1


@pytest.mark.parametrize(
    ("side", "error"),
    [
        ("loop", ValueError),
        ("loop", KeyboardInterrupt),
        ("loop", asyncio.CancelledError),
        ("thread", ValueError),
        # A KeyboardInterrupt in a task of its own would end the loop, as it always does.
        ("thread", asyncio.CancelledError),
    ],
)
async def test_error_of_an_awaitable_is_raised_where_it_was_waited_for(run, side, error):
    """Synchronous code catches what the awaitable raised, at the call that waited."""

    class Failing:
        def __await__(self):
            yield
            raise error("from the awaitable")

    async def fail():
        await asyncio.sleep(0)
        raise error("from the awaitable")

    def wait():
        caught = []
        awaitables: list[Awaitable[None]] = [fail(), Failing()]
        for awaitable in awaitables:
            try:
                await_(awaitable)
            except error as raised:
                caught.append(str(raised))
        return caught

    assert await run(wait, side=side) == ["from the awaitable"] * 2


@SIDES
async def test_stop_iteration_of_a_function_is_not_lost(run, side):
    """StopIteration, which no coroutine may raise, arrives as the RuntimeError of Python."""

    def fail():
        raise StopIteration("value")

    def outer():
        with pytest.raises(StopIteration):
            fail()
        await_(asyncio.sleep(0))
        return "went on"

    assert await run(outer, side=side) == "went on"


async def test_stop_iteration_of_a_function_called_through_in_thread_is_raised(run):
    """next() in a worker thread ends with StopIteration in the calling code, without hanging."""
    items = iter([1])
    take = in_thread(lambda: next(items))

    def use():
        taken = take()
        try:
            take()
        except StopIteration:
            return [taken, "the end"]
        except RuntimeError as error:
            return [taken, repr(error.__cause__)]

    assert await run(use) == [1, "the end"]


async def test_stop_iteration_of_a_coroutine_reaches_synchronous_code_as_runtime_error(run):
    """A coroutine that raises StopIteration fails with RuntimeError, as everywhere in Python."""

    async def fail():
        await asyncio.sleep(0)
        raise StopIteration

    def use():
        with pytest.raises(RuntimeError, match="StopIteration"):
            await_(fail())
        return "seen"

    assert await run(use) == "seen"


async def test_greenlet_is_used_again(runtime):
    """Functions that run one after the other share a greenlet; those at the same time do not."""
    first = await run_on_loop(runtime, current_bridge, copy_context())
    assert await run_on_loop(runtime, current_bridge, copy_context()) is first
    assert len(runtime.greenlets) == 1
    everyone = asyncio.Event()
    bridges: list[Any] = []

    def meet():
        bridges.append(current_bridge())
        if len(bridges) == 10:
            everyone.set()
        await_(everyone.wait())

    await asyncio.gather(*(run_on_loop(runtime, meet, copy_context()) for _ in range(10)))
    assert len(set(bridges)) == 10
    assert first in bridges
    assert len(runtime.greenlets) == 10


async def test_pool_keeps_no_more_than_max_idle_greenlets(runtime):
    """The greenlets that a burst needed beyond max_idle end when they come back."""
    runtime.greenlets = pool = GreenletPool(runtime, on_loop=True, max_idle=3)
    everyone = asyncio.Event()
    bridges: list[Any] = []

    def meet():
        bridges.append(current_bridge())
        if len(bridges) == 8:
            everyone.set()
        await_(everyone.wait())

    await asyncio.gather(*(run_on_loop(runtime, meet, copy_context()) for _ in range(8)))
    assert len(pool) == 3
    assert sum(bridge.dead for bridge in bridges) == 5


async def test_closed_pool_ends_its_greenlets_and_each_that_comes_back(runtime, eventually):
    """close() ends idle greenlets at once, and one that is in use when its function ends."""
    runtime.greenlets = pool = GreenletPool(runtime, on_loop=True)
    go_on = asyncio.Event()
    suspended: list[Any] = []

    def wait():
        suspended.append(current_bridge())
        await_(go_on.wait())
        return "done"

    task = asyncio.create_task(run_on_loop_coroutine(runtime, wait))
    await eventually(lambda: suspended)
    idle: Any = await run_on_loop(runtime, current_bridge, copy_context())
    assert idle is not suspended[0]
    pool.close()
    assert (idle.dead, suspended[0].dead, len(pool)) == (True, False, 0)
    go_on.set()
    assert await task == "done"
    assert (suspended[0].dead, len(pool)) == (True, 0)


async def run_on_loop_coroutine(runtime, function, context=None):
    return await run_on_loop(runtime, function, context or copy_context())


@pytest.mark.parametrize("end", ["result", "error", "error of a child", "cancellation"])
async def test_idle_greenlet_keeps_nothing_of_its_last_function(runtime, eventually, end):
    """Function, result, error, context and locals of a request are freed when it has ended."""
    references: list[weakref.ref[Any]] = []
    waiting = asyncio.Event()
    variable: ContextVar[Thing] = ContextVar("variable")

    async def use():
        local, result, value = Thing(), Thing(), Thing()
        references.extend(map(weakref.ref, (local, result, value)))
        variable.set(value)

        async def child():
            kept = Thing()
            references.append(weakref.ref(kept))
            await asyncio.sleep(0)
            if end == "error of a child":
                error = Broken(kept)
                references.append(weakref.ref(error))
                raise error
            return kept

        def function():
            assert local is not None
            await_(child())
            if end == "error":
                error = Broken(local)
                references.append(weakref.ref(error))
                raise error
            if end == "cancellation":
                waiting.set()
                await_(asyncio.Event().wait())
            return result

        references.append(weakref.ref(function))
        task = asyncio.create_task(run_on_loop_coroutine(runtime, function))
        if end == "cancellation":
            await eventually(lambda: len(references) == 5)
            await waiting.wait()
            await asyncio.sleep(0)
            task.cancel()
        outcome = "result"
        try:
            await task
        except Broken:
            outcome = "error"
        except asyncio.CancelledError:
            outcome = "cancellation"
        assert end.startswith(outcome)

    gc.disable()
    try:
        await asyncio.create_task(use())
        await asyncio.sleep(0)
    finally:
        gc.enable()
    assert len(runtime.greenlets) == 1
    gc.collect()
    assert [reference() for reference in references] == [None] * len(references)
    assert len(references) >= 5
    bridge = runtime.greenlets.acquire()
    assert bridge.gr_context is None
    assert bridge.mailbox is None
    runtime.greenlets.release(bridge)


@pytest.mark.parametrize("kind", ["coroutine", "synchronous"])
@pytest.mark.parametrize("path", ["/", "/fail"])
async def test_server_keeps_nothing_of_a_request(
    app, aio, serve, eventually, monkeypatch, kind, path
):
    """After a request nothing refers to its context or to what its view has made."""
    references: list[weakref.ref[Any]] = []
    variable: ContextVar[Thing] = ContextVar("variable")
    app.config["PROPAGATE_EXCEPTIONS"] = False

    def answer(word="ok"):
        local, value = Thing(), Thing()
        variable.set(value)
        references.extend(
            map(weakref.ref, (local, value, request._get_current_object()))  # type: ignore[attr-defined]
        )
        if word == "fail":
            raise ValueError(local)
        return word

    async def coroutine(word="ok"):
        await asyncio.sleep(0)
        return answer(word)

    view = answer if kind == "synchronous" else coroutine
    app.add_url_rule("/", view_func=view)
    app.add_url_rule("/<word>", view_func=view)
    monkeypatch.setattr(app.logger, "disabled", True)  # pytest keeps what is logged.
    client = await serve(app)
    assert (await client.get(path)).status == (200 if path == "/" else 500)
    # The connection itself keeps its last request until the next one comes.
    assert (await client.get("/static/none")).status == 404

    def all_freed():
        gc.collect()
        return [reference() for reference in references] == [None] * 3

    await eventually(all_freed)


async def test_cancellation_is_raised_where_the_function_waits(runtime):
    """Cancelling the task raises CancelledError at the waiting call; the function can clean up."""
    waiting = asyncio.Event()
    record: list[Any] = []

    def wait():
        try:
            waiting.set()
            await_(asyncio.Event().wait())
        except asyncio.CancelledError as error:
            record.append(("cancelled", *error.args))
            record.append(await_(asyncio.sleep(0, "cleaned up")))
            raise
        finally:
            record.append("finally")

    task = asyncio.create_task(run_on_loop_coroutine(runtime, wait))
    await waiting.wait()
    await asyncio.sleep(0)
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert record == [("cancelled", "enough"), "cleaned up", "finally"]
    assert len(runtime.greenlets) == 1


async def test_function_may_refuse_its_cancellation(runtime):
    """A function that catches the CancelledError goes on waiting and returns its result."""
    waiting = asyncio.Event()

    def wait():
        try:
            waiting.set()
            await_(asyncio.Event().wait())
        except asyncio.CancelledError:
            return await_(asyncio.sleep(0, "stayed"))

    task = asyncio.create_task(run_on_loop_coroutine(runtime, wait))
    await waiting.wait()
    await asyncio.sleep(0)
    task.cancel()
    assert await task == "stayed"


async def test_abandoned_call_is_ended_with_its_finally_blocks(runtime):
    """A suspended call whose driver is closed sees GeneratorExit and leaves its greenlet usable."""
    record = []

    async def coroutine():
        try:
            await asyncio.Event().wait()
        finally:
            record.append("finally")

    driver = run_on_loop(runtime, lambda: drive(coroutine()), copy_context())
    driver.send(None)
    driver.close()
    assert record == ["finally"]
    assert len(runtime.greenlets) == 1


async def test_traceback_of_a_view_that_was_suspended_shows_the_users_frames(app, aio, serve):
    """The traceback of an error after an await names the view and what it called, in order."""
    seen: list[str] = []

    async def third():
        await asyncio.sleep(0)
        raise KeyError("hat")

    def second():
        await_(asyncio.sleep(0))
        await_(third())

    @app.get("/")
    async def first():
        await asyncio.sleep(0)
        second()

    @app.errorhandler(KeyError)
    def handle(error):
        seen.extend(frame.name for frame in traceback.extract_tb(error.__traceback__))
        return "handled"

    client = await serve(app)
    assert await (await client.get("/")).text() == "handled"
    assert [name for name in seen if name in ("first", "second", "third")] == [
        "first",
        "second",
        "third",
    ]


@SIDES
async def test_second_await_of_a_coroutine_is_refused_by_name(run, side):
    """Waiting for a finished coroutine again raises AioError with its name and what to do."""

    async def fetch():
        return "fetched"

    def twice():
        coroutine = fetch()
        first = await_(coroutine)
        with pytest.raises(AioError, match=r"fetch' was already awaited.*Call its function again"):
            await_(coroutine)
        return first

    assert await run(twice, side=side) == "fetched"


@SIDES
async def test_yield_of_something_else_than_a_future_is_an_error_of_the_coroutine(run, side):
    """A coroutine that yields a plain value gets a TypeError at the yield, and may handle it."""

    @types.coroutine
    def bad():
        yield "chunk"

    async def handle():
        try:
            await bad()
        except TypeError as error:
            return str(error)

    def wait():
        with pytest.raises(TypeError, match="yielded 'chunk', which is not an asyncio future"):
            await_(bad())
        return await_(handle())

    assert "yield from" in await run(wait, side=side)


@SIDES
@pytest.mark.parametrize("value", [None, 1, "text", asyncio.sleep])
async def test_await_of_what_cannot_be_awaited_is_a_type_error(run, side, value):
    """await_ says that it wants the result of calling a coroutine function."""

    def wait():
        with pytest.raises(TypeError, match=r"await_ was given .*, which cannot be awaited"):
            await_(value)
        return True

    assert await run(wait, side=side)


@pytest.mark.parametrize("make", ["task", "gather", "group"])
async def test_await_in_a_child_task_is_refused_with_advice(app, aio, serve, make):
    """await_ in a task of its own raises CannotSuspend, closes the coroutine, blocks nothing."""
    coroutines: list[Any] = []

    async def fetch():
        await asyncio.sleep(0)

    async def child():
        coroutines.append(fetch())
        with pytest.raises(CannotSuspend, match=r"await_ was called .* Use 'await' there"):
            await_(coroutines[0])
        return "refused"

    @app.get("/")
    async def index():
        if make == "task":
            return await asyncio.create_task(child())
        if make == "gather":
            return (await asyncio.gather(child()))[0]
        async with asyncio.TaskGroup() as group:
            task = group.create_task(child())
        return task.result()

    client = await serve(app)
    assert await (await client.get("/")).text() == "refused"
    assert inspect.getcoroutinestate(coroutines[0]) == inspect.CORO_CLOSED


async def test_suspend_outside_of_a_greenlet_is_refused():
    """suspend() where nothing can be suspended raises CannotSuspend and closes the coroutine."""
    coroutine = asyncio.sleep(0)
    assert not can_suspend()
    with pytest.raises(CannotSuspend):
        suspend(coroutine)
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


@pytest.mark.parametrize("view", ["coroutine", "synchronous"])
async def test_sqlalchemys_protocol_works_in_both_kinds_of_views(app, aio, serve, view):
    """Switching an awaitable to the parent of a marked greenlet returns its result."""

    async def query(word):
        await asyncio.sleep(0)
        user.set(user.get() + word)  # Seen by the view: it is the request's own context.
        return [word, request.path, user.get(), threading.current_thread().name]

    async def fail():
        await asyncio.sleep(0)
        raise KeyError("hat")

    def answer():
        user.set("ann ")
        first = sqlalchemy_await(query("a"))
        try:
            sqlalchemy_await(fail())
        except KeyError as error:
            caught = str(error)
        loop_future = sqlalchemy_await(asyncio.sleep(0, "future"))
        return [first, caught, loop_future, sqlalchemy_await(query("b")), user.get()]

    async def coroutine():
        await asyncio.sleep(0)
        return answer()

    app.add_url_rule("/", view_func=answer if view == "synchronous" else coroutine)
    client = await serve(app)
    assert await (await client.get("/")).json() == [
        ["a", "/", "ann a", "MainThread"],
        "'hat'",
        "future",
        ["b", "/", "ann ab", "MainThread"],
        "ann ab",
    ]


@SIDES
async def test_sqlalchemys_protocol_may_be_nested(run, side):
    """What is awaited through SQLAlchemy's protocol may run synchronous code that waits as well."""

    async def inner(word):
        await asyncio.sleep(0)
        return word

    async def outer():
        await asyncio.sleep(0)
        return [sqlalchemy_await(inner("a")), await_(inner("b")), await inner("c")]

    assert await run(lambda: sqlalchemy_await(outer()), side=side) == ["a", "b", "c"]


@SIDES
async def test_greenlet_that_user_code_makes_inside_can_be_marked_as_sqlalchemys(run, side):
    """A greenlet_spawn-like driver of the user's own inside a request works beside ours."""

    async def greenlet_spawn(function):
        class Marked(greenlet.greenlet):
            __sqlalchemy_greenlet_provider__ = True

        inner = Marked(function)
        inner.gr_context = copy_context()
        switched = inner.switch()
        while not inner.dead:
            switched = inner.switch(await switched)
        return switched

    async def use():
        return await greenlet_spawn(
            lambda: [sqlalchemy_await(asyncio.sleep(0, "a")), await_(asyncio.sleep(0, "b"))]
        )

    assert await run(lambda: await_(use()), side=side) == ["a", "b"]


async def test_cancellation_passes_through_sqlalchemys_protocol(runtime):
    """A cancellation reaches the awaitable that was switched to the parent, then the function."""
    waiting = asyncio.Event()
    record = []

    async def query():
        try:
            waiting.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            record.append("query")
            raise

    def function():
        try:
            sqlalchemy_await(query())
        except asyncio.CancelledError:
            record.append("function")
            raise

    task = asyncio.create_task(run_on_loop_coroutine(runtime, function))
    await waiting.wait()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert record == ["query", "function"]


async def test_bridged_call_is_given_the_context_itself(runtime):
    """What the function sets is set in the context that was passed, and nowhere else."""
    context = copy_context()

    async def change():
        await asyncio.sleep(0)
        user.set(user.get() + "!")

    def function():
        user.set("ann")
        await_(change())
        return user.get()

    assert await run_on_loop(runtime, function, context) == "ann!"
    assert context[user] == "ann!"
    assert user.get() == "nobody"


async def test_call_begun_in_one_greenlet_is_continued_in_another(runtime):
    """A call goes back to the greenlet that drives it now, not to the one that began it."""

    def function():
        return [await_(asyncio.sleep(0, n)) for n in range(2)]

    driver = run_on_loop(runtime, function, copy_context())
    here = greenlet.getcurrent()
    first_step = greenlet.greenlet(lambda: here.switch(driver.send(None)))
    assert first_step.switch() is None
    assert driver.send(None) is None
    with pytest.raises(StopIteration) as end:
        driver.send(None)
    assert end.value.value == [0, 1]
    assert not first_step.dead  # Nothing has switched back to it.


async def test_two_thousand_suspended_calls_end_in_any_order(runtime):
    """Calls by the thousand that are suspended at once each get the result that is theirs."""
    loop = asyncio.get_running_loop()
    futures = [loop.create_future() for _ in range(2000)]

    def wait(n):
        user.set(str(n))
        return await_(futures[n]) + n, user.get()

    calls = [
        asyncio.create_task(run_on_loop_coroutine(runtime, lambda n=n: wait(n)))
        for n in range(2000)
    ]
    await asyncio.sleep(0)
    for n in sorted(range(2000), key=lambda n: n * 7919 % 2000):
        futures[n].set_result(n)
    assert await asyncio.gather(*calls) == [(2 * n, str(n)) for n in range(2000)]
    assert len(runtime.greenlets) == 1024


async def test_greenlet_exit_in_a_function_is_an_error_and_its_greenlet_is_not_used_again(runtime):
    """A function that ends its greenlet by GreenletExit fails; the next one gets another."""

    def leave():
        bridges.append(current_bridge())
        raise greenlet.GreenletExit

    bridges: list[Any] = []
    caught = None
    try:
        await run_on_loop(runtime, leave, copy_context())
    except BaseException as error:
        caught = error
    assert caught is not None
    assert bridges[0].dead
    assert await run_on_loop(runtime, current_bridge, copy_context()) is not bridges[0]
