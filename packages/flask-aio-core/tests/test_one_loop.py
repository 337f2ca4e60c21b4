"""Every coroutine of a process runs on the server's one loop."""

from __future__ import annotations

import asyncio
import gc
import threading

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from flask import Flask, current_app, g, has_request_context, request

from flask_aio_core import AioError, AioHTTP, await_, in_thread
from flask_aio_core.state import get_state

KINDS = pytest.mark.parametrize("kind", ["coroutine", "synchronous"])


@pytest.fixture
async def upstream():
    """Another HTTP server, whose every answer sets a cookie and tells of those it was sent."""

    async def answer(request):
        response = web.json_response(dict(request.cookies))
        response.set_cookie("visitor", request.query.get("visitor", "someone"))
        return response

    application = web.Application()
    application.router.add_get("/", answer)
    server = TestServer(application)
    await server.start_server()
    # A host with a name: aiohttp keeps no cookies of an address anyway.
    yield str(server.make_url("/").with_host("localhost"))
    await server.close()


@pytest.fixture
def add_view():
    """Add a view that calls a coroutine function, as one itself or from a worker thread."""

    def add(app, kind, rule, function):
        async def coroutine(**values):
            return await function(**values)

        def synchronous(**values):
            return await_(function(**values))

        app.add_url_rule(rule, rule, coroutine if kind == "coroutine" else synchronous)

    return add


class Pool:
    """Bound to the loop that it is made on, like a connection pool."""

    def __init__(self):
        self.loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[str] = asyncio.Queue()
        self.lock = asyncio.Lock()
        self.ready = self.loop.create_future()

    async def use(self, word):
        assert asyncio.get_running_loop() is self.loop
        async with self.lock:
            self.loop.call_soon(self.queue.put_nowait, word)
            return await self.queue.get()


@pytest.fixture
def pool(aio):
    """A pool that is opened when the server starts."""
    opened: list[Pool] = []

    @aio.on_startup
    async def start():
        opened.append(Pool())

    return lambda: opened[0]


@KINDS
async def test_pool_opened_at_start_works_in_every_view(app, aio, serve, pool, add_view, kind):
    """What is bound to the loop of the start hooks can be used in views of both kinds."""

    async def use(word):
        return await pool().use(word)

    add_view(app, kind, "/<word>", use)
    client = await serve(app)
    assert pool().loop is asyncio.get_running_loop()
    assert [await (await client.get(f"/{word}")).text() for word in "abc"] == ["a", "b", "c"]


@KINDS
async def test_pool_opened_at_start_works_in_asynchronous_hooks(
    app, aio, serve, pool, add_view, eventually, kind
):
    """Coroutine hooks, of synchronous views too, use what is bound to the server's loop."""
    record = []

    @app.before_request
    async def before():
        record.append(await pool().use("before"))

    @app.after_request
    async def after(response):
        record.append(await pool().use("after"))
        return response

    @app.teardown_request
    async def teardown(error):
        record.append(await pool().use("teardown"))

    @app.errorhandler(KeyError)
    async def handle(error):
        return await pool().use("handled")

    async def fail():
        raise KeyError

    add_view(app, kind, "/", fail)
    client = await serve(app)
    assert await (await client.get("/")).text() == "handled"
    await eventually(lambda: len(record) == 3)
    assert record == ["before", "after", "teardown"]


@KINDS
async def test_pool_opened_at_start_works_in_a_stream(app, aio, serve, pool, kind):
    """An async generator that a view of either kind returns runs on the server's loop."""

    async def stream():
        for word in "abc":
            yield await pool().use(word)

    async def coroutine():
        return stream()

    app.add_url_rule("/", "index", coroutine if kind == "coroutine" else stream_in(stream))
    client = await serve(app)
    assert await (await client.get("/")).text() == "abc"


def stream_in(stream):
    def synchronous():
        return stream()

    return synchronous


async def test_blocking_function_in_a_thread_gets_back_to_the_loop(app, aio, serve, pool):
    """await_ inside in_thread, inside a coroutine view, runs on the server's loop."""

    @in_thread
    def blocking(word):
        assert threading.current_thread() is not threading.main_thread()
        return await_(pool().use(word))

    @app.get("/<word>")
    async def index(word):
        return blocking(word)

    client = await serve(app)
    assert await (await client.get("/hat")).text() == "hat"


@KINDS
async def test_calls_may_be_nested_to_any_depth(app, aio, serve, pool, kind):
    """Synchronous and asynchronous code call each other, on the loop, in a thread, and back."""
    sides: list[str] = []

    def side():
        sides.append(threading.current_thread().name)

    async def asynchronous(depth):
        side()
        await asyncio.sleep(0)
        return synchronous(depth - 1) if depth else await pool().use("bottom")

    def synchronous(depth):
        side()
        return await_(asynchronous(depth))

    @in_thread
    def blocking(depth):
        return synchronous(depth)

    async def coroutine():
        return blocking(3) + synchronous(3)

    app.add_url_rule(
        "/", "index", coroutine if kind == "coroutine" else lambda: blocking(3) + synchronous(3)
    )
    client = await serve(app)
    assert await (await client.get("/")).text() == "bottombottom"
    worker = next(name for name in sides if name != "MainThread")
    # From a thread only the first synchronous call is in it: what it awaits runs on the loop.
    in_worker = [worker, *["MainThread"] * 7]
    assert sides == in_worker + (["MainThread"] * 8 if kind == "coroutine" else in_worker)


@pytest.mark.timeout(60)
async def test_nested_thread_calls_use_the_thread_that_waits(app, aio, serve):
    """thread -> loop -> thread -> loop needs one worker thread, however deep it goes."""
    app.config["AIO_WORKER_THREADS"] = 1
    threads = []

    @in_thread
    def down(depth):
        threads.append(threading.current_thread())
        return await_(up(depth)) if depth else "bottom"

    async def up(depth):
        await asyncio.sleep(0)
        return down(depth - 1)

    @app.get("/coroutine")
    async def coroutine():
        return down(5)

    @app.get("/synchronous")
    def synchronous():
        return down(5)

    client = await serve(app)
    for path in ("/coroutine", "/synchronous"):
        threads.clear()
        assert await (await client.get(path)).text() == "bottom"
        assert len(threads) == 6
        assert len(set(threads)) == 1
        assert threads[0] is not threading.main_thread()


@KINDS
async def test_current_task_is_set_in_all_code_of_a_request(app, aio, serve, add_view, kind):
    """asyncio.current_task() is one task in a view, in what it calls and in sync code below."""

    def below():
        return [asyncio.current_task(), await_(own_task())]

    async def own_task():
        await asyncio.sleep(0)
        return asyncio.current_task()

    async def index():
        tasks = [asyncio.current_task(), await own_task(), *below()]
        assert all(isinstance(task, asyncio.Task) for task in tasks)
        return [len(set(tasks))]

    add_view(app, kind, "/", index)
    client = await serve(app)
    assert await (await client.get("/")).json() == [1]


async def test_hooks_and_view_of_a_coroutine_request_are_one_task(app, aio, serve):
    """Synchronous and coroutine hooks run in the task of their view."""
    tasks = []
    app.before_request(lambda: tasks.append(asyncio.current_task()))

    @app.before_request
    async def before():
        tasks.append(asyncio.current_task())

    @app.get("/")
    async def index():
        tasks.append(asyncio.current_task())
        return "ok"

    client = await serve(app)
    assert await (await client.get("/")).text() == "ok"
    assert len(tasks) == 3
    assert tasks[0] is tasks[1] is tasks[2] is not None


@KINDS
async def test_timeout_in_a_view_ends_what_it_waits_for(app, aio, serve, add_view, kind):
    """asyncio.timeout and wait_for end the wait, the view goes on."""
    record = []

    async def never():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            record.append("cancelled")
            raise

    async def index():
        for name in ("timeout", "wait_for", "bridged"):
            try:
                if name == "wait_for":
                    await asyncio.wait_for(never(), 0.01)
                async with asyncio.timeout(0.01):
                    if name == "bridged":
                        await_(never())
                    await never()
            except TimeoutError:
                record.append(name)
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        return [*record, task.cancelling()]

    add_view(app, kind, "/", index)
    client = await serve(app)
    assert await (await client.get("/")).json() == [
        "cancelled",
        "timeout",
        "cancelled",
        "wait_for",
        "cancelled",
        "bridged",
        0,
    ]


@KINDS
async def test_child_tasks_of_a_view_run_at_the_same_time(app, aio, serve, add_view, kind):
    """gather, TaskGroup and create_task in a view run their coroutines concurrently."""

    async def meet(barrier, n):
        await barrier.wait()
        return n

    async def index():
        barrier = asyncio.Barrier(3)
        gathered = await asyncio.gather(*(meet(barrier, n) for n in range(3)))
        async with asyncio.TaskGroup() as group:
            grouped = [group.create_task(meet(barrier, n)) for n in range(3)]
        tasks = [asyncio.create_task(meet(barrier, n)) for n in range(3)]
        return [gathered, [task.result() for task in grouped], [await task for task in tasks]]

    add_view(app, kind, "/", index)
    client = await serve(app)
    assert await (await client.get("/")).json() == [[0, 1, 2]] * 3


@KINDS
async def test_error_of_one_child_cancels_its_task_group(app, aio, serve, add_view, kind):
    """A TaskGroup in a view cancels the other tasks and raises the group of errors."""
    record = []

    async def fail():
        await asyncio.sleep(0)
        raise KeyError("hat")

    async def never():
        try:
            await asyncio.Event().wait()
        finally:
            record.append("cancelled")

    async def index():
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(never())
                group.create_task(fail())
                await asyncio.Event().wait()
        except* KeyError as errors:
            record.append(str(errors.exceptions[0]))
        await asyncio.sleep(0)
        return record

    add_view(app, kind, "/", index)
    client = await serve(app)
    assert await (await client.get("/")).json() == ["cancelled", "'hat'"]


@KINDS
async def test_task_that_a_view_makes_outlives_the_request(
    app, aio, serve, add_view, eventually, kind
):
    """A task of create_task goes on after the response, on the same loop."""
    go_on = asyncio.Event()
    done = []

    async def work():
        await go_on.wait()
        done.append(asyncio.get_running_loop())

    async def index():
        tasks.append(asyncio.create_task(work()))
        return "ok"

    tasks: list[asyncio.Task[None]] = []
    add_view(app, kind, "/", index)
    client = await serve(app)
    assert await (await client.get("/")).text() == "ok"
    assert done == []
    go_on.set()
    await eventually(lambda: done)
    assert done == [asyncio.get_running_loop()]


async def test_thousand_bridges_at_once_neither_deadlock_nor_need_threads(app, aio, serve):
    """A thousand calls that wait in synchronous code all at once use no thread but the loop's."""
    await serve(app)
    threads = threading.active_count()
    everyone = asyncio.Event()
    waiting = 0
    most_threads = 0

    def bridged():
        nonlocal waiting, most_threads
        waiting += 1
        most_threads = max(most_threads, threading.active_count())
        if waiting == 1000:
            everyone.set()
        await_(everyone.wait())
        return has_request_context()

    async def call():
        return bridged()

    results = await asyncio.gather(*(aio.spawn(call()) for _ in range(1000)))
    assert results == [False] * 1000
    assert most_threads == threads == threading.active_count()


async def test_more_waiting_synchronous_requests_than_threads_do_not_deadlock(app, aio, serve):
    """Threads that wait for the loop, whose coroutines want threads, are lent to those."""
    app.config["AIO_WORKER_THREADS"] = 2

    @in_thread
    def blocking():
        return "ok"

    async def use():
        await asyncio.sleep(0)
        return blocking()

    @app.get("/")
    def index():
        return await_(use())

    client = await serve(app)

    async def get():
        return await (await client.get("/")).text()

    assert await asyncio.gather(*(get() for _ in range(50))) == ["ok"] * 50
    workers = [one for one in threading.enumerate() if one.name.startswith("flask-aio-worker")]
    assert len(workers) <= 2


# The shared HTTP client.


async def test_client_is_one_for_the_whole_process(app, aio, serve, eventually):
    """Views of both kinds, hooks, threads, child and background tasks get the same client."""
    clients: list[aiohttp.ClientSession] = []

    def note():
        clients.append(aio.client)

    async def note_later():
        await asyncio.sleep(0)
        clients.append(aio.client)

    aio.on_startup(note)
    app.before_request(note)

    @app.get("/coroutine")
    async def coroutine():
        note()
        await note_later()
        await asyncio.create_task(note_later())
        await asyncio.gather(note_later(), note_later())
        await asyncio.to_thread(note)
        in_thread(note)()
        aio.spawn(note_later())
        return "ok"

    @app.get("/synchronous")
    def synchronous():
        note()
        await_(note_later())
        thread = threading.Thread(target=note)
        thread.start()
        thread.join()
        return "ok"

    client = await serve(app)
    for path in ("/coroutine", "/synchronous"):
        assert await (await client.get(path)).text() == "ok"
    await eventually(lambda: len(clients) == 14)
    assert len(set(map(id, clients))) == 1
    assert not clients[0].closed
    await client.close()
    assert clients[0].closed


@KINDS
async def test_client_keeps_no_cookies(app, aio, serve, upstream, add_view, kind):
    """A cookie that one request was given by another server is not sent along with the next."""

    async def index(visitor):
        async with aio.client.get(upstream, params={"visitor": visitor}) as response:
            assert response.cookies["visitor"].value == visitor
            return await response.json()

    add_view(app, kind, "/<visitor>", index)
    client = await serve(app)
    for visitor in ("ann", "bob"):
        assert await (await client.get(f"/{visitor}")).json() == {}


async def test_client_that_was_closed_by_mistake_is_replaced(app, aio, serve, upstream):
    """After 'async with aio.client' the next request gets a client that works."""

    @app.get("/")
    async def index():
        async with aio.client as http, http.get(upstream) as response:
            return [response.status]

    client = await serve(app)
    for _ in range(2):
        assert await (await client.get("/")).json() == [200]


async def test_client_is_closed_with_the_server_although_it_was_made_by_a_thread(
    app, aio, serve, upstream
):
    """A client first used in a synchronous view belongs to the loop and is closed there."""
    clients = []

    @app.get("/")
    def index():
        clients.append(aio.client)

        async def fetch():
            async with aio.client.get(upstream) as response:
                return response.status

        return [await_(fetch())]

    client = await serve(app)
    assert await (await client.get("/")).json() == [200]
    await client.close()
    assert clients[0].closed
    gc.collect()  # An unclosed connector would warn now.


async def test_two_apps_have_two_clients(app, aio, serve):
    """Each app's client is its own, and the app context decides where both are served."""
    other = Flask("other")
    other_aio = AioHTTP(other)
    clients = {}

    for one, extension in ((app, aio), (other, other_aio)):

        async def index(extension=extension):
            clients[current_app.name] = extension.client
            return current_app.name

        one.add_url_rule("/", "index", index)
    for one in (app, other):
        client = await serve(one)
        assert await (await client.get("/")).text() == one.name
    assert clients["shop"] is not clients["other"]
    assert clients["shop"] is get_state(app).runtime().client()


# Background tasks.


@KINDS
async def test_spawned_task_outlives_the_request_inside_the_app_context(
    app, aio, serve, eventually, kind
):
    """aio.spawn returns at once; the task has an app context of its own, not the request's g."""
    go_on = asyncio.Event()
    seen = []

    async def work(word):
        await go_on.wait()
        seen.append([current_app.name, "name" in g, word, asyncio.get_running_loop()])
        return "result"

    def answer():
        g.name = "ann"
        tasks.append(aio.spawn(work(request.args["q"])))
        return "ok"

    async def coroutine():
        return answer()

    tasks: list[asyncio.Task[str]] = []
    app.add_url_rule("/", view_func=answer if kind == "synchronous" else coroutine)
    client = await serve(app)
    assert await (await client.get("/?q=word")).text() == "ok"
    assert not tasks[0].done()
    go_on.set()
    assert await tasks[0] == "result"
    assert seen == [["shop", False, "word", asyncio.get_running_loop()]]


async def test_spawned_task_may_wait_in_synchronous_code(app, aio, serve):
    """A background task runs on a greenlet: await_ and in_thread work in it."""
    await serve(app)

    async def work():
        return [await_(asyncio.sleep(0, "waited")), in_thread(threading.current_thread)().name]

    result = await aio.spawn(work())
    assert result is not None
    assert result[0] == "waited"
    assert result[1].startswith("flask-aio-worker")


async def test_spawned_task_may_be_spawned_by_another_or_by_a_thread(app, aio, serve):
    """aio.spawn works in background tasks, in child tasks and in plain threads."""
    await serve(app)

    async def work(word):
        await asyncio.sleep(0)
        return word

    async def parent():
        return await aio.spawn(work("from a task"))

    async def child():
        return await asyncio.create_task(parent())

    assert await aio.spawn(parent()) == "from a task"
    assert await aio.spawn(child()) == "from a task"
    task = await asyncio.to_thread(lambda: aio.spawn(work("from a thread")))
    assert await task == "from a thread"


async def test_error_of_a_spawned_task_is_logged(app, aio, serve, caplog):
    """A background task that fails is logged with its name and traceback, and returns None."""
    await serve(app)

    async def feed_the_cat():
        await asyncio.sleep(0)
        raise KeyError("no food")

    assert await aio.spawn(feed_the_cat()) is None
    record = next(one for one in caplog.records if "background task" in one.message)
    assert "feed_the_cat" in record.message
    assert record.levelname == "ERROR"
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "'no food'"


async def test_spawned_tasks_are_awaited_when_the_server_stops(app, aio, serve, upstream):
    """Stopping the server waits for background tasks, before the clean-up hooks run."""
    record = []
    stopping = asyncio.Event()

    @app.get("/")
    async def index():
        aio.spawn(work())
        return "ok"

    async def work():
        await stopping.wait()
        for _ in range(5):
            await asyncio.sleep(0)
        async with aio.client.get(upstream) as response:
            record.append(response.status)

    @aio.on_cleanup
    async def clean_up():
        record.append("clean-up")

    async def stop(_):
        stopping.set()
        await asyncio.sleep(0)

    app.aiohttp_app.on_shutdown.append(stop)
    client = await serve(app)
    assert await (await client.get("/")).text() == "ok"
    await client.close()
    assert record == [200, "clean-up"]


async def test_spawned_task_is_cancelled_when_its_grace_is_over(app, aio, serve):
    """A background task that goes on for ever is cancelled after AIO_BACKGROUND_GRACE."""
    app.config["AIO_BACKGROUND_GRACE"] = 0.01
    record = []

    async def work():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            record.append("cancelled")
            await asyncio.sleep(0)
            record.append("cleaned up")
            raise

    aio.on_cleanup(lambda: record.append("clean-up hook"))
    client = await serve(app)
    task = aio.spawn(work())
    await asyncio.sleep(0)
    await client.close()
    assert task.cancelled()
    assert record == ["cancelled", "cleaned up", "clean-up hook"]


@pytest.mark.parametrize("value", [None, 1, asyncio.sleep, [], "work"])
def test_spawn_refuses_what_is_not_a_coroutine(aio, value):
    """aio.spawn names what it was given and says how to call it."""
    with pytest.raises(TypeError, match=r"aio\.spawn needs a coroutine.*aio\.spawn\(work\(\)\)"):
        aio.spawn(value)


async def test_spawn_without_an_app_closes_the_coroutine(serve):
    """Where no app can be meant the coroutine is closed: only the error tells of it."""
    extension = AioHTTP()

    async def work():
        """Never runs."""

    with pytest.raises(AioError):
        extension.spawn(work())
    gc.collect()


@KINDS
async def test_nothing_of_the_request_context_is_needed_by_a_spawned_task(
    app, aio, serve, eventually, kind
):
    """The teardown of a request does not wait for the tasks that it has spawned."""
    go_on = asyncio.Event()
    record = []

    @app.teardown_request
    def teardown(error):
        record.append("teardown")

    async def work():
        await go_on.wait()
        record.append("work")

    def answer():
        aio.spawn(work())
        return "ok"

    async def coroutine():
        return answer()

    app.add_url_rule("/", view_func=answer if kind == "synchronous" else coroutine)
    client = await serve(app)
    await client.get("/")
    await eventually(lambda: record)
    go_on.set()
    await eventually(lambda: len(record) == 2)
    assert record == ["teardown", "work"]
