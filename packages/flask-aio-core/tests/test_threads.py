"""Worker threads: synchronous views, in_thread, hooks in a thread, the bounded queue."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextvars import ContextVar

import pytest
from flask import Response, g, request
from greenlet import getcurrent

from flask_aio_core import AioHTTP, CannotSuspend, async_, await_, in_thread

pytestmark = pytest.mark.usefixtures("aio")


class Gate:
    """A place where worker threads wait until the test lets them go on."""

    def __init__(self):
        self.inside = 0
        self.open = threading.Event()
        self._lock = threading.Lock()

    def wait(self):
        with self._lock:
            self.inside += 1
        assert self.open.wait(60)


@pytest.fixture
def gate():
    """A gate that is opened at the latest when the test ends."""
    gate = Gate()
    yield gate
    gate.open.set()


# Synchronous views


async def test_synchronous_request_runs_whole_in_one_worker_thread(app, serve):
    """Hooks, view, stream and teardown of a synchronous view run in one thread, not the loop's."""
    threads = []

    def note():
        threads.append(threading.current_thread())

    app.before_request(note)
    app.after_request(lambda response: note() or response)
    app.teardown_request(lambda _: note())
    app.teardown_appcontext(lambda _: note())

    @app.get("/")
    def view():
        note()

        def body():
            note()
            yield b"x"
            note()

        return Response(body())

    client = await serve(app)
    threads.clear()  # The start of the server had an app context too, on the loop.
    assert await (await client.get("/")).read() == b"x"
    assert len(threads) == 7
    assert len(set(threads)) == 1
    assert threads[0] is not threading.current_thread()


async def test_sqlite3_connection_opened_before_request_serves_view_and_teardown(
    app, serve, eventually
):
    """A sqlite3 connection, bound to its thread, is usable from before_request to teardown."""
    rows = []

    @app.before_request
    def open_database():
        g.database = sqlite3.connect(":memory:")

    @app.get("/")
    def view():
        return str(g.database.execute("select 40 + 2").fetchone()[0])

    @app.teardown_request
    def close(_):
        rows.append(g.database.execute("select 1").fetchone())
        g.database.close()

    client = await serve(app)
    answers = await asyncio.gather(*[client.get("/") for _ in range(20)])
    assert [await answer.text() for answer in answers] == ["42"] * 20
    await eventually(lambda: len(rows) == 20)


async def test_unknown_page_is_answered_by_a_worker_thread(app, serve):
    """What matches no view runs in a thread, where a blocking error handler harms nobody."""
    threads = []

    @app.errorhandler(404)
    def missing(_):
        threads.append(threading.current_thread())
        return "nothing", 404

    client = await serve(app)
    assert (await client.get("/nowhere")).status == 404
    assert threads[0] is not threading.current_thread()


async def test_coroutine_views_answer_while_all_worker_threads_are_blocked(
    app, serve, eventually, gate
):
    """A coroutine view is served when every worker thread sleeps."""
    app.config["AIO_WORKER_THREADS"] = 4

    @app.get("/sync")
    def sync():
        gate.wait()
        return "sync"

    @app.get("/async")
    async def view():
        await asyncio.sleep(0)
        return "async"

    client = await serve(app)
    blocked = [asyncio.create_task(client.get("/sync")) for _ in range(6)]
    await eventually(lambda: gate.inside == 4)
    assert await (await client.get("/async")).text() == "async"
    assert not any(task.done() for task in blocked)
    gate.open.set()
    answers = await asyncio.gather(*blocked)
    assert [await answer.text() for answer in answers] == ["sync"] * 6


async def test_number_of_worker_threads_is_the_configured_one(app, serve, eventually, gate):
    """No more than AIO_WORKER_THREADS synchronous requests run at once; the others queue."""
    app.config["AIO_WORKER_THREADS"] = 3

    @app.get("/")
    def view():
        gate.wait()
        return threading.current_thread().name

    @app.get("/barrier")
    async def barrier():
        return "ok"

    client = await serve(app)
    tasks = [asyncio.create_task(client.get("/")) for _ in range(9)]
    await eventually(lambda: gate.inside == 3)
    await client.get("/barrier")
    assert gate.inside == 3
    gate.open.set()
    names = {await answer.text() for answer in await asyncio.gather(*tasks)}
    assert len(names) <= 3


async def test_blocked_requests_over_the_queue_get_503_with_retry_after(
    app, serve, eventually, gate
):
    """Over AIO_WORKER_THREADS and AIO_WORKER_QUEUE, a request is turned away with 503."""
    app.config.update(AIO_WORKER_THREADS=1, AIO_WORKER_QUEUE=1, AIO_RETRY_AFTER=7)

    @app.get("/")
    def view():
        gate.wait()
        return "done"

    client = await serve(app)
    first = asyncio.create_task(client.get("/"))
    await eventually(lambda: gate.inside == 1)
    others = [asyncio.create_task(client.get("/")) for _ in range(3)]
    await eventually(lambda: sum(task.done() for task in others) == 2)
    refused = [task.result() for task in others if task.done()]
    assert [(one.status, one.headers["Retry-After"]) for one in refused] == [(503, "7")] * 2
    gate.open.set()
    served = [await first, *[await task for task in others]]
    assert sorted(one.status for one in served) == [200, 200, 503, 503]
    assert (await client.get("/")).status == 200


async def test_in_thread_over_the_queue_is_503_that_the_view_can_handle(
    app, serve, eventually, gate
):
    """in_thread raises ServiceUnavailable when no thread is free and the queue is full."""
    app.config.update(AIO_WORKER_THREADS=1, AIO_WORKER_QUEUE=0, AIO_RETRY_AFTER=3)

    @app.get("/sync")
    def sync():
        gate.wait()
        return "done"

    @app.get("/")
    async def view():
        in_thread(int)()
        return "not reached"

    client = await serve(app)
    first = asyncio.create_task(client.get("/sync"))
    await eventually(lambda: gate.inside == 1)
    answer = await client.get("/")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "3")
    gate.open.set()
    assert (await first).status == 200


async def test_thousand_waiting_coroutine_requests_are_inside_at_once(app, serve):
    """A thousand requests wait in the view together, in no thread, and then finish together."""
    count = 1000
    inside = 0
    everyone = asyncio.Event()
    threads = set()

    @app.get("/")
    async def view():
        nonlocal inside
        inside += 1
        threads.add(threading.current_thread())
        if inside == count:
            everyone.set()
        await everyone.wait()
        return request.args["n"]

    client = await serve(app)
    connector = client.session.connector
    assert connector is not None
    connector._limit = 0

    async def ask(number):
        async with client.get(f"/?n={number}") as answer:
            return await answer.text()

    before = threading.active_count()
    answers = await asyncio.gather(*[ask(number) for number in range(count)])
    assert answers == [str(number) for number in range(count)]
    assert threads == {threading.current_thread()}
    assert threading.active_count() == before


# Hooks in a thread


@pytest.mark.parametrize("switch", ["view", "app"])
async def test_hooks_in_thread_keeps_hooks_off_the_loop_and_the_coroutine_on_it(
    app, serve, eventually, switch
):
    """With the switch, hooks and teardown share one worker thread while the coroutine runs."""
    app.config["AIO_HOOKS_IN_THREAD"] = switch == "app"
    seen = {}

    def note(name):
        seen[name] = threading.current_thread()

    app.before_request(lambda: note("before"))
    app.after_request(lambda response: note("after") or response)
    app.teardown_request(lambda _: note("teardown"))

    async def view():
        asyncio.get_running_loop()
        note("view")
        await asyncio.sleep(0)
        return request.args["a"]

    app.get("/")(async_(hooks_in_thread=True)(view) if switch == "view" else view)
    client = await serve(app)
    assert await (await client.get("/?a=1")).text() == "1"
    await eventually(lambda: "teardown" in seen)
    assert seen["view"] is threading.current_thread()
    assert seen["before"] is seen["after"] is seen["teardown"]
    assert seen["before"] is not seen["view"]


async def test_view_option_takes_hooks_back_to_the_loop(app, serve):
    """hooks_in_thread=False on a view wins over AIO_HOOKS_IN_THREAD."""
    app.config["AIO_HOOKS_IN_THREAD"] = True
    threads = []
    app.before_request(lambda: threads.append(threading.current_thread()))

    @app.get("/")
    @async_(hooks_in_thread=False)
    async def view():
        return "ok"

    client = await serve(app)
    await client.get("/")
    assert threads == [threading.current_thread()]


async def test_blocking_hook_in_thread_leaves_the_loop_free(app, serve, eventually, gate):
    """While a hook kept in a thread blocks, other coroutine requests are answered."""

    @app.before_request
    def hook():
        if request.path == "/slow":
            gate.wait()

    @app.get("/slow")
    @async_(hooks_in_thread=True)
    async def slow():
        await asyncio.sleep(0)
        return "slow"

    @app.get("/fast")
    async def fast():
        return "fast"

    client = await serve(app)
    task = asyncio.create_task(client.get("/slow"))
    await eventually(lambda: gate.inside == 1)
    assert await (await client.get("/fast")).text() == "fast"
    gate.open.set()
    assert await (await task).text() == "slow"


async def test_hooks_in_thread_holds_sqlite3_connection_for_coroutine_views_hooks(
    app, serve, eventually
):
    """A coroutine view with its hooks in a thread can use their connection by in_thread."""
    closed = []

    @app.before_request
    def connect():
        g.database = sqlite3.connect(":memory:")

    @app.teardown_request
    def close(_):
        g.database.close()
        closed.append(True)

    @app.get("/")
    @async_(hooks_in_thread=True)
    async def view():
        await asyncio.sleep(0)
        return str(in_thread(lambda: g.database.execute("select 6 * 7").fetchone()[0])())

    client = await serve(app)
    assert await (await client.get("/")).text() == "42"
    await eventually(lambda: closed)


# in_thread


async def test_in_thread_runs_in_worker_thread_with_the_request(app, serve):
    """in_thread in a coroutine view runs the function in another thread, with request and g."""

    def work(suffix, *, prefix):
        g.thread = threading.current_thread()
        return prefix + request.args["a"] + suffix

    @app.get("/")
    async def view():
        text = in_thread(work)(">", prefix="<")
        assert g.thread is not threading.current_thread()
        return text

    client = await serve(app)
    assert await (await client.get("/?a=b")).text() == "<b>"


async def test_in_thread_leaves_the_loop_free(app, serve, eventually, gate):
    """While in_thread blocks its thread, the loop serves other requests."""

    @app.get("/slow")
    async def slow():
        in_thread(gate.wait)()
        return "slow"

    @app.get("/fast")
    async def fast():
        return "fast"

    client = await serve(app)
    task = asyncio.create_task(client.get("/slow"))
    await eventually(lambda: gate.inside == 1)
    assert await (await client.get("/fast")).text() == "fast"
    gate.open.set()
    assert await (await task).text() == "slow"


async def test_in_thread_works_in_synchronous_hook_of_coroutine_request(app, serve):
    """A hook wrapped by in_thread leaves the loop of a coroutine request."""
    threads = []

    @app.before_request
    @in_thread
    def hook():
        threads.append((threading.current_thread(), request.path))

    @app.get("/")
    async def view():
        return "ok"

    client = await serve(app)
    assert (await client.get("/")).status == 200
    ((thread, path),) = threads
    assert thread is not threading.current_thread()
    assert path == "/"


async def test_in_thread_raises_the_functions_error_in_the_view(app, serve):
    """An error of the function reaches the coroutine that called it."""

    def fail():
        raise LookupError("no such thing")

    @app.get("/")
    async def view():
        with pytest.raises(LookupError, match="no such thing"):
            in_thread(fail)()
        return "caught"

    client = await serve(app)
    assert await (await client.get("/")).text() == "caught"


def test_in_thread_keeps_name_and_attributes():
    """The wrapper carries the function's name, docstring and attributes."""

    def work(a: int) -> int:
        """Work."""
        return a

    work.mark = "yes"  # type: ignore[attr-defined]
    wrapped = in_thread(work)
    assert (wrapped.__name__, wrapped.__doc__) == ("work", "Work.")
    assert wrapped.mark == "yes"  # type: ignore[attr-defined]
    assert wrapped.__wrapped__ is work  # type: ignore[attr-defined]


async def test_in_thread_in_synchronous_view_just_runs(app, serve):
    """Called in a worker thread, the function runs in that same thread."""

    @app.get("/")
    def view():
        return str(in_thread(threading.current_thread)() is threading.current_thread())

    client = await serve(app)
    assert await (await client.get("/")).text() == "True"


def test_in_thread_outside_of_any_loop_just_runs():
    """Called in a plain thread, the function runs there."""
    assert in_thread(threading.current_thread)() is threading.current_thread()


async def test_context_variable_set_in_thread_persists(app, serve):
    """What a function run by in_thread sets in a context variable, its caller and hooks see."""
    variable: ContextVar[str] = ContextVar("variable", default="unset")
    after = []

    @app.after_request
    def hook(response):
        after.append(variable.get())
        return response

    @app.get("/")
    async def view():
        variable.set("view")

        def work():
            seen = variable.get()
            variable.set("thread")
            return seen

        return f"{in_thread(work)()} {variable.get()}"

    client = await serve(app)
    assert await (await client.get("/")).text() == "view thread"
    assert after == ["thread"]
    assert variable.get() == "unset"


async def test_in_thread_of_coroutine_awaited_by_sync_view_uses_that_views_thread(app, serve):
    """A sync view's coroutine lends the view's own thread, so one worker cannot deadlock."""
    app.config.update(AIO_WORKER_THREADS=1, AIO_WORKER_QUEUE=0)

    @app.get("/")
    def view():
        database = sqlite3.connect(":memory:")

        async def work():
            await asyncio.sleep(0)

            def query():
                return database.execute("select 1").fetchone(), threading.current_thread()

            return in_thread(query)()

        row, thread = await_(work())
        database.close()
        return f"{row} {thread is threading.current_thread()}"

    client = await serve(app)
    assert await (await client.get("/")).text() == "(1,) True"


async def test_in_thread_function_can_await_and_nest_with_one_worker(app, serve):
    """await_ and in_thread can be nested to any depth although there is one worker thread."""
    app.config.update(AIO_WORKER_THREADS=1, AIO_WORKER_QUEUE=0)

    async def value(depth):
        await asyncio.sleep(0)
        return in_thread(blocking)(depth - 1) if depth else "bottom"

    def blocking(depth):
        return await_(value(depth))

    @app.get("/")
    async def view():
        return in_thread(blocking)(5)

    client = await serve(app)
    assert await (await client.get("/")).text() == "bottom"


async def test_in_thread_refuses_coroutine_functions():
    """A coroutine function or async generator function is refused, with the advice to await it."""

    async def coroutine():
        pass

    async def stream():
        yield

    for function in (coroutine, stream):
        with pytest.raises(TypeError, match="await it"):
            in_thread(function)


def test_in_thread_refuses_generator_functions():
    """A generator function is refused: its body would not run in the thread."""

    def generator():
        yield

    with pytest.raises(TypeError, match="is a generator"):
        in_thread(generator)


async def test_in_thread_in_child_task_is_refused(app, serve):
    """In an asyncio task of its own, which cannot be suspended, in_thread says what to use."""
    called: list[int] = []

    @app.get("/")
    async def view():
        async def child():
            in_thread(called.append)(1)

        with pytest.raises(CannotSuspend, match=r"asyncio\.to_thread"):
            await asyncio.create_task(child())
        return "refused"

    client = await serve(app)
    assert await (await client.get("/")).text() == "refused"
    assert not called


async def test_cancellation_waits_for_the_function_in_the_thread(app, serve, eventually, gate):
    """A cancelled view ends only after the function that runs for it in a thread has."""
    order = []

    def work():
        gate.wait()
        order.append("function")

    @app.get("/")
    async def view():
        try:
            async with asyncio.timeout(None) as limit:
                await asyncio.sleep(0)
                view_limit.append(limit)
                in_thread(work)()
                order.append("not reached")
        except TimeoutError:
            order.append("view")
        return "ended"

    view_limit: list[asyncio.Timeout] = []
    client = await serve(app)
    task = asyncio.create_task(client.get("/"))
    await eventually(lambda: gate.inside == 1)
    view_limit[0].reschedule(0)
    await eventually(view_limit[0].expired)
    assert order == []
    gate.open.set()
    assert await (await task).text() == "ended"
    assert order == ["function", "view"]


async def test_cancellation_ends_what_the_function_in_the_thread_awaits(app, serve, eventually):
    """Cancelling a view cancels the awaitable that its function in a thread waits for."""
    waiting = []
    ends = []

    async def forever():
        waiting.append(True)
        try:
            await asyncio.Event().wait()
        finally:
            ends.append("awaitable")

    @app.get("/")
    async def view():
        try:
            async with asyncio.timeout(None) as limit:
                await asyncio.sleep(0)
                limits.append(limit)
                in_thread(lambda: await_(forever()))()
        except TimeoutError:
            ends.append("view")
        return "ended"

    limits: list[asyncio.Timeout] = []
    client = await serve(app)
    task = asyncio.create_task(client.get("/"))
    await eventually(lambda: waiting)
    limits[0].reschedule(0)
    assert await (await task).text() == "ended"
    assert ends == ["awaitable", "view"]


async def test_cancellation_while_function_runs_cancels_its_next_wait(app, serve, eventually, gate):
    """A function cancelled while it computes is cancelled where it next waits, and ends."""

    def work():
        gate.wait()
        await_(asyncio.Event().wait())

    @app.get("/")
    async def view():
        try:
            async with asyncio.timeout(None) as limit:
                await asyncio.sleep(0)
                limits.append(limit)
                in_thread(work)()
        except TimeoutError:
            return "ended"
        return "not reached"

    limits: list[asyncio.Timeout] = []
    client = await serve(app)
    task = asyncio.create_task(client.get("/"))
    await eventually(lambda: gate.inside == 1)
    limits[0].reschedule(0)
    await eventually(limits[0].expired)
    gate.open.set()
    assert await (await task).text() == "ended"


async def test_cancellation_lets_a_query_in_a_thread_come_to_its_end(app, serve, eventually):
    """What SQLAlchemy waits for in a thread is not cancelled; the next wait of our own is."""
    waiting = asyncio.Event()
    go_on = asyncio.Event()
    seen = []

    async def query():
        waiting.set()
        await go_on.wait()
        return "row"

    def work():
        driver = getcurrent().parent
        assert driver is not None
        for _ in range(2):  # As SQLAlchemy's asyncio drivers wait.
            seen.append(driver.switch(query()))
        try:
            await_(asyncio.Event().wait())
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    @app.get("/")
    async def view():
        try:
            async with asyncio.timeout(None) as limit:
                await asyncio.sleep(0)
                limits.append(limit)
                in_thread(work)()
        except TimeoutError:
            return "ended"
        return "not reached"

    limits: list[asyncio.Timeout] = []
    client = await serve(app)
    task = asyncio.create_task(client.get("/"))
    await waiting.wait()
    limits[0].reschedule(0)
    await eventually(limits[0].expired)
    await asyncio.sleep(0)
    go_on.set()
    assert await (await task).text() == "ended"
    assert seen == ["row", "row", "cancelled"]


async def test_blocked_worker_thread_does_not_keep_the_process_alive(app, serve):
    """Worker threads are daemons: one that never returns does not keep the interpreter running."""

    @app.get("/")
    def view():
        return str(threading.current_thread().daemon)

    client = await serve(app)
    assert await (await client.get("/")).text() == "True"


def test_extension_starts_no_thread_and_no_loop_at_init(app):
    """Making the extension starts nothing, so that a server may fork afterwards."""
    assert isinstance(app.extensions["flask_aio_core"], object)
    names = [thread.name for thread in threading.enumerate()]
    AioHTTP(type(app)("other"))
    assert [thread.name for thread in threading.enumerate()] == names


@pytest.mark.parametrize("view_kind", ["synchronous", "coroutine"])
async def test_one_request_after_the_other_needs_no_queue(app, aio, serve, view_kind):
    """With one thread and no queue, a client that waits for each answer is never turned away."""
    app.config.update(AIO_WORKER_THREADS=1, AIO_WORKER_QUEUE=0)
    blocking = in_thread(lambda: "done")

    @app.get("/synchronous")
    def synchronous():
        return "done"

    @app.get("/coroutine")
    async def coroutine():
        return blocking()

    client = await serve(app)
    for _ in range(300):
        assert (await client.get("/" + view_kind)).status == 200
