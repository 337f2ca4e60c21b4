"""Flask's context locals and the user's context variables, in both kinds of views."""

from __future__ import annotations

import asyncio
import json
import threading
from contextvars import ContextVar, copy_context

import aiohttp
import pytest
from aiohttp import web
from flask import (
    Response,
    after_this_request,
    appcontext_popped,
    appcontext_pushed,
    appcontext_tearing_down,
    copy_current_request_context,
    current_app,
    flash,
    g,
    get_flashed_messages,
    got_request_exception,
    has_app_context,
    has_request_context,
    message_flashed,
    render_template_string,
    request,
    request_finished,
    request_started,
    request_tearing_down,
    session,
    stream_with_context,
    template_rendered,
    url_for,
)

from flask_aio_core import await_

user = ContextVar("user", default="nobody")


def n_of_url():
    assert request.view_args is not None
    return request.view_args["n"]


KINDS = pytest.mark.parametrize("kind", ["coroutine", "synchronous"])
HOOKS = pytest.mark.parametrize("hook", ["coroutine", "synchronous"])


@pytest.fixture
def add_view():
    """Add a view of either kind, given its parts; what it awaits comes between two parts."""

    def add(app, kind, rule, *parts, endpoint=None):
        async def coroutine(**values):
            for part in parts[:-1]:
                part(**values)
                await asyncio.sleep(0)
            return parts[-1](**values)

        def synchronous(**values):
            for part in parts[:-1]:
                part(**values)
                await_(asyncio.sleep(0))
            return parts[-1](**values)

        view = coroutine if kind == "coroutine" else synchronous
        app.add_url_rule(rule, endpoint or rule, view)

    return add


@pytest.fixture
def as_hook():
    """Make a function a hook of either kind."""

    def make(function, kind):
        async def coroutine(*args, **named):
            await asyncio.sleep(0)
            return function(*args, **named)

        return coroutine if kind == "coroutine" else function

    return make


@pytest.fixture
async def get_at_once():
    """Send one request for each path, all at once and each on a connection of its own."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar()
    ) as browser:

        async def fetch(url):
            async with browser.get(url) as response:
                assert response.status == 200, await response.text()
                return await response.json()

        async def get(client, paths):
            return await asyncio.gather(*(fetch(client.make_url(path)) for path in paths))

        yield get


@KINDS
async def test_context_locals_are_the_same_after_every_await(app, aio, serve, add_view, kind):
    """request, session, g, current_app and url_for mean the same before and after each await."""
    seen: list[tuple[str, list[int], int, str, str]] = []

    def look(name):
        g.steps = [*g.get("steps", []), len(seen)]
        session["steps"] = len(g.steps)
        seen.append(
            (
                request.args["q"],
                g.steps,
                session["steps"],
                current_app.name,
                url_for("/hello/<name>", name=name),
            )
        )

    def answer(name):
        look(name)
        return {"seen": seen}

    add_view(app, kind, "/hello/<name>", look, look, look, answer)
    client = await serve(app)
    response = await client.get("/hello/ann?q=word")
    assert (await response.json())["seen"] == [
        ["word", list(range(step)), step, "shop", "/hello/ann"] for step in range(1, 5)
    ]
    assert "session" in response.cookies


@pytest.mark.parametrize("waiting", ["future", "gather", "group", "timeout", "iterator", "thread"])
async def test_request_is_there_after_each_way_to_await(app, aio, serve, waiting):
    """Whatever a coroutine view awaits, it sees its own request and g afterwards."""

    async def wait():
        loop = asyncio.get_running_loop()
        if waiting == "future":
            future = loop.create_future()
            loop.call_soon(future.set_result, None)
            await future
        elif waiting == "gather":
            await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0))
        elif waiting == "group":
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(0))
        elif waiting == "timeout":
            async with asyncio.timeout(60):
                await asyncio.sleep(0)
        elif waiting == "iterator":

            async def items():
                for item in range(3):
                    await asyncio.sleep(0)
                    yield item

            async for _ in items():
                assert request.args["q"] == g.q
        else:
            await asyncio.to_thread(lambda: None)

    @app.get("/")
    async def index():
        g.q = request.args["q"]
        await wait()
        return {"same": g.q == request.args["q"] == "x"}

    client = await serve(app)
    assert await (await client.get("/?q=x")).json() == {"same": True}


async def test_child_tasks_and_threads_see_the_request(app, aio, serve):
    """create_task, gather and to_thread carry the request along, as context variables do."""

    @app.get("/")
    async def index():
        g.name = "ann"

        async def child():
            await asyncio.sleep(0)
            return [request.path, g.name]

        def blocking():
            return [request.path, g.name]

        return {
            "task": await asyncio.create_task(child()),
            "gather": (await asyncio.gather(child()))[0],
            "thread": await asyncio.to_thread(blocking),
        }

    client = await serve(app)
    expected = ["/", "ann"]
    assert await (await client.get("/")).json() == {
        "task": expected,
        "gather": expected,
        "thread": expected,
    }


@KINDS
async def test_flashed_message_is_shown_by_the_next_request(app, aio, serve, add_view, kind):
    """flash() after an await reaches get_flashed_messages() of the next request, once."""
    add_view(app, kind, "/flash", lambda: flash("Saved"), lambda: "ok")
    add_view(app, kind, "/show", lambda: None, get_flashed_messages)
    client = await serve(app)
    await client.get("/flash")
    assert await (await client.get("/show")).json() == ["Saved"]
    assert await (await client.get("/show")).json() == []


@KINDS
async def test_session_is_kept_from_request_to_request(app, aio, serve, add_view, kind):
    """What a view writes to the session after an await is read by the client's next request."""

    def count():
        session["visits"] = session.get("visits", 0) + 1
        return str(session["visits"])

    add_view(app, kind, "/", lambda: None, count)
    client = await serve(app)
    assert [await (await client.get("/")).text() for _ in range(3)] == ["1", "2", "3"]


@KINDS
@HOOKS
async def test_after_this_request_is_called_with_this_response_only(
    app, aio, serve, add_view, as_hook, kind, hook
):
    """after_this_request, called after an await, changes this response and no later one."""

    def change(response):
        response.headers["X-Path"] = request.path
        return response

    def register():
        after_this_request(as_hook(change, hook))
        return "ok"

    add_view(app, kind, "/once", lambda: None, register)
    add_view(app, kind, "/plain", lambda: "ok")
    client = await serve(app)
    assert (await client.get("/once")).headers["X-Path"] == "/once"
    assert "X-Path" not in (await client.get("/plain")).headers


@KINDS
async def test_copied_request_context_works_in_a_thread(app, aio, serve, add_view, kind):
    """A copy_current_request_context function sees the request in a thread that has no context."""

    def answer():
        seen = []

        @copy_current_request_context
        def work():
            seen.append([request.args["q"], session["name"], current_app.name])

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return seen

    add_view(app, kind, "/", lambda: session.update(name="ann"), answer)
    client = await serve(app)
    assert await (await client.get("/?q=x")).json() == [["x", "ann", "shop"]]


@KINDS
async def test_copied_request_context_outlives_the_request(
    app, aio, serve, add_view, eventually, kind
):
    """A background task sees the request through copy_current_request_context after its end."""
    finished = asyncio.Event()
    seen = []

    def answer():
        @copy_current_request_context
        def look():
            seen.append([request.args["q"], session["name"]])

        async def work():
            await finished.wait()
            look()

        aio.spawn(work())
        return "ok"

    add_view(app, kind, "/", lambda: session.update(name="ann"), answer)
    client = await serve(app)
    assert await (await client.get("/?q=x")).text() == "ok"
    assert seen == []
    finished.set()
    await eventually(lambda: seen)
    assert seen == [["x", "ann"]]


@KINDS
async def test_copied_request_context_takes_a_coroutine_function(app, aio, serve, kind):
    """copy_current_request_context around an async def is called like Flask's: it waits."""

    def answer():
        @copy_current_request_context
        async def work():
            await asyncio.sleep(0)
            return request.args["q"]

        return work()

    async def coroutine():
        return answer()

    app.add_url_rule("/", view_func=coroutine if kind == "coroutine" else answer)
    client = await serve(app)
    assert await (await client.get("/?q=x")).text() == "x"


@KINDS
@pytest.mark.parametrize("generator", ["coroutine", "synchronous"])
@pytest.mark.parametrize("form", ["decorator", "wrapper", "response"])
async def test_stream_with_context_sees_the_request(
    app, aio, serve, add_view, kind, generator, form
):
    """A stream marked with stream_with_context uses request, session and g, also after awaits."""

    def items():
        for word in ("a", "b"):
            await_(asyncio.sleep(0))
            yield f"{word}{request.args['q']}{session['name']}{g.n}"

    async def async_items():
        for word in ("a", "b"):
            await asyncio.sleep(0)
            yield f"{word}{request.args['q']}{session['name']}{g.n}"

    function = items if generator == "synchronous" else async_items

    def answer():
        g.n = 7
        if form == "decorator":
            return stream_with_context(function)()  # type: ignore[call-arg]
        stream = stream_with_context(function())
        return stream if form == "wrapper" else Response(stream)

    add_view(app, kind, "/", lambda: session.update(name="ann"), answer)
    client = await serve(app)
    response = await client.get("/?q=x")
    assert await response.text() == "axann7bxann7"


async def test_stream_of_a_coroutine_view_sees_the_request_unasked(app, aio, serve):
    """An async generator view and a generator returned by a coroutine view see their request."""

    @app.get("/async")
    async def stream():
        yield request.path
        await asyncio.sleep(0)
        yield g.get("name", "-") + request.args["q"]

    @app.get("/sync")
    async def returned():
        g.name = "ann"

        def items():
            yield request.path
            yield g.name + request.args["q"]

        return items()

    client = await serve(app)
    assert await (await client.get("/async?q=x")).text() == "/async-x"
    assert await (await client.get("/sync?q=x")).text() == "/syncannx"


@pytest.mark.parametrize("end", ["exhausted", "closed", "failed"])
def test_stream_that_has_ended_leaves_no_context_in_the_test_client(app, aio, end):
    """A stream that Flask's test client has read to its end is torn down, closed or not."""
    torn_down = []
    app.teardown_request(lambda error: torn_down.append(repr(error)))

    @app.get("/")
    async def stream():
        yield request.path
        await asyncio.sleep(0)
        if end == "failed":
            raise KeyError("hat")

    def use():
        response = app.test_client().get("/")
        if end == "failed":
            with pytest.raises(KeyError):
                response.get_data()
        else:
            assert response.text == "/"
        if end == "closed":
            response.close()
        return has_request_context(), has_app_context()

    assert copy_context().run(use) == (False, False)
    assert torn_down == ["KeyError('hat')" if end == "failed" else "None"]
    aio.close()


@KINDS
@HOOKS
async def test_signals_are_sent_once_inside_their_contexts(
    app, aio, serve, add_view, as_hook, kind, hook
):
    """Receivers of every request signal, of either kind, are called once and see the request."""
    record = []

    def receiver(name):
        def receive(sender, **_):
            record.append((name, sender.name, request.path if has_request_context() else None))

        return as_hook(receive, hook)

    signals = {
        appcontext_pushed: "pushed",
        request_started: "started",
        message_flashed: "flashed",
        template_rendered: "rendered",
        request_finished: "finished",
        request_tearing_down: "tearing down",
        appcontext_tearing_down: "app tearing down",
        appcontext_popped: "popped",
    }

    def answer():
        flash("hello")
        return render_template_string("{{ request.path }}")

    add_view(app, kind, "/x", lambda: None, answer)
    client = await serve(app)
    receivers = {signal: receiver(name) for signal, name in signals.items()}
    for signal, function in receivers.items():
        signal.connect(function, app)
    try:
        assert await (await client.get("/x")).text() == "/x"
        await client.close()
        # The server's own start and stop push the app context too: those have no request.
        of_request = record[: [name for name, *_ in record].index("popped") + 1]
    finally:
        for signal, function in receivers.items():
            signal.disconnect(function, app)
    assert of_request == [
        ("pushed", "shop", None),
        ("started", "shop", "/x"),
        ("flashed", "shop", "/x"),
        ("rendered", "shop", "/x"),
        ("finished", "shop", "/x"),
        ("tearing down", "shop", "/x"),
        ("app tearing down", "shop", None),
        ("popped", "shop", None),
    ]
    assert {name for name, *_ in record[len(of_request) :]} <= {
        "pushed",
        "app tearing down",
        "popped",
    }


@KINDS
@HOOKS
async def test_unhandled_error_is_signalled_once_with_the_request(
    app, aio, serve, add_view, as_hook, caplog, kind, hook
):
    """got_request_exception is sent once with the exception, inside the request; answer: 500."""
    record = []

    def receive(sender, exception, **_):
        record.append((sender.name, repr(exception), request.args["q"], g.name))

    def fail():
        raise ValueError("broken")

    add_view(app, kind, "/", lambda: setattr(g, "name", "ann"), fail)
    receiver = as_hook(receive, hook)
    with got_request_exception.connected_to(receiver, app):
        client = await serve(app)
        response = await client.get("/?q=x")
        assert response.status == 500
        await client.close()
    assert record == [("shop", "ValueError('broken')", "x", "ann")]
    assert caplog.text.count("Exception on / [GET]") == 1


async def test_nothing_leaks_between_hundreds_of_interleaved_coroutine_requests(
    app, aio, serve, get_at_once
):
    """200 requests that all wait for each other in mid-view still see only what is their own."""
    count = 200
    arrived = 0
    everyone = asyncio.Event()

    @app.before_request
    async def login():
        user.set(request.args["n"])
        await asyncio.sleep(0)

    @app.get("/<int:n>")
    async def index(n):
        nonlocal arrived
        clean = not session and "n" not in g
        g.n = session["n"] = n
        arrived += 1
        if arrived == count:
            everyone.set()
        await everyone.wait()
        seen = []
        for _ in range(5):
            await asyncio.sleep(0)
            seen.append([n_of_url(), request.args["n"], g.n, session["n"], user.get()])
        return {"clean": clean, "seen": seen}

    @app.after_request
    def mark(response):
        assert user.get() == request.args["n"] == str(g.n)
        return response

    client = await serve(app)
    answers = await get_at_once(client, [f"/{n}?n={n}" for n in range(count)])
    assert answers == [
        {"clean": True, "seen": [[n, str(n), n, n, str(n)]] * 5} for n in range(count)
    ]
    assert arrived == count
    assert user.get() == "nobody"


async def test_nothing_leaks_between_interleaved_synchronous_requests(app, aio, serve, get_at_once):
    """More synchronous requests than threads, which wait on the loop, see only their own state."""
    app.config["AIO_WORKER_THREADS"] = 8
    count = 100
    meeting = threading.Barrier(8)

    @app.before_request
    async def login():
        user.set(request.args["n"])

    @app.get("/<int:n>")
    def index(n):
        clean = not session and "n" not in g
        g.n = session["n"] = n
        if n < 8:
            meeting.wait(30)  # Eight threads are inside a request at once.
        seen = []
        for _ in range(5):
            await_(asyncio.sleep(0))
            seen.append([n_of_url(), request.args["n"], g.n, session["n"], user.get()])
        return {"clean": clean, "seen": seen}

    client = await serve(app)
    first = await get_at_once(client, [f"/{n}?n={n}" for n in range(8)])
    rest = await get_at_once(client, [f"/{n}?n={n}" for n in range(8, count)])
    assert first + rest == [
        {"clean": True, "seen": [[n, str(n), n, n, str(n)]] * 5} for n in range(count)
    ]


async def test_both_kinds_of_views_interleave_without_leaks(app, aio, serve, get_at_once):
    """Coroutine and synchronous requests that run at the same time keep their state apart."""
    inside = threading.Barrier(2)
    go_on = asyncio.Event()

    @app.get("/coroutine/<n>")
    async def coroutine(n):
        user.set(n)
        g.n = n
        await asyncio.to_thread(inside.wait, 30)
        await go_on.wait()
        return [request.path, g.n, user.get()]

    @app.get("/synchronous/<n>")
    def synchronous(n):
        user.set(n)
        g.n = n
        inside.wait(30)
        seen = [request.path, g.n, user.get()]
        await_(asyncio.sleep(0))
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()
        loop.call_soon_threadsafe(go_on.set)
        assert seen == [request.path, g.n, user.get()]
        return seen

    loop = asyncio.get_running_loop()
    client = await serve(app)
    assert await get_at_once(client, ["/coroutine/a", "/synchronous/b"]) == [
        ["/coroutine/a", "a", "a"],
        ["/synchronous/b", "b", "b"],
    ]


@KINDS
async def test_nothing_leaks_on_one_keep_alive_connection(app, aio, serve, connect, add_view, kind):
    """Requests that follow one another on one connection start with a clean state each."""
    arrivals = []

    def arrive(n):
        arrivals.append([request.environ["REMOTE_PORT"], user.get(), "n" in g, "n" in session])
        user.set(str(n))
        g.n = session["n"] = n

    def answer(n):
        return {"n": [n, g.n, session["n"], user.get(), n_of_url()]}

    add_view(app, kind, "/<int:n>", arrive, answer)
    client = await serve(app)
    reader, writer = await connect(client)
    count = 100
    for n in range(count):
        writer.write(f"GET /{n} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        length = next(
            int(line.split(b":")[1])
            for line in head.splitlines()
            if line.lower().startswith(b"content-length:")
        )
        assert json.loads(await reader.readexactly(length))["n"] == [n, n, n, str(n), n]
    port = arrivals[0][0]
    assert arrivals == [[port, "nobody", False, False]] * count


@KINDS
@HOOKS
async def test_context_variable_of_a_hook_is_seen_until_teardown_and_not_by_the_next_request(
    app, aio, serve, connect, as_hook, eventually, kind, hook
):
    """What before_request sets is seen up to teardown of that request, and in no other one."""
    record = []

    @app.before_request
    def first():
        record.append(("before", user.get()))

    def login():
        user.set(request.args["user"])

    def note(name):
        def look(value=None):
            record.append((name, user.get()))
            return value

        return as_hook(look, hook)

    app.before_request(as_hook(login, hook))
    app.after_request(note("after"))
    app.teardown_request(note("teardown"))
    app.teardown_appcontext(note("teardown app"))

    def items():
        for n in range(2):
            record.append((f"stream {n}", user.get()))
            yield "x"

    if kind == "coroutine":

        @app.get("/")
        async def index():
            await asyncio.sleep(0)
            record.append(("view", user.get()))
            return items()
    else:

        @app.get("/")
        def index():
            record.append(("view", user.get()))
            return stream_with_context(items())

    client = await serve(app)
    reader, writer = await connect(client)
    steps = ["view", "stream 0", "stream 1", "after", "teardown", "teardown app"]
    for name in ("ann", "bob"):
        record.clear()
        writer.write(f"GET /?user={name} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await reader.readuntil(b"0\r\n\r\n")
        await eventually(lambda: ("teardown app", name) in record)  # noqa: B023
        assert record[0] == ("before", "nobody")
        assert set(record[1:]) == {(step, name) for step in steps}


@KINDS
async def test_context_variable_of_the_view_is_seen_by_all_that_follows(
    app, aio, serve, eventually, kind
):
    """What the view sets is seen in its stream, what the stream sets is seen in teardown."""
    record = []

    def items():
        record.append(user.get())
        user.set("stream")
        yield "x"

    async def async_items():
        record.append(user.get())
        await asyncio.sleep(0)
        user.set("stream")
        yield "x"

    @app.get("/coroutine")
    async def coroutine():
        await asyncio.sleep(0)
        user.set("view")
        return async_items()

    @app.get("/synchronous")
    def synchronous():
        user.set("view")
        return stream_with_context(items())

    @request_tearing_down.connect_via(app)
    def look(_, **kwargs):
        torn_down.append(user.get())

    torn_down = []
    client = await serve(app)
    assert await (await client.get("/" + kind)).text() == "x"
    assert record == ["view"]
    # Flask's stream_with_context has teardown run twice, before the stream and after it.
    await eventually(lambda: "stream" in torn_down)


@KINDS
@pytest.mark.parametrize("where", ["cleanup_ctx", "on_startup", "on_startup, synchronous"])
async def test_context_variable_set_at_start_is_visible_in_requests(
    app, aio, serve, add_view, get_at_once, kind, where
):
    """A context variable that a start hook sets is seen by every request of the server."""
    tenant = ContextVar("tenant", default="none")
    if where == "cleanup_ctx":

        @aio.cleanup_ctx
        async def enter():
            tenant.set("acme")
            yield
    elif where == "on_startup":

        @aio.on_startup
        async def start():
            await asyncio.sleep(0)
            tenant.set("acme")
    else:

        @aio.on_startup
        def start_plainly():
            tenant.set("acme")

    def answer():
        seen = tenant.get()
        tenant.set("changed by a request")
        return [seen]

    add_view(app, kind, "/", lambda: None, answer)
    client = await serve(app)
    assert await get_at_once(client, ["/"] * 3) == [["acme"]] * 3
    assert await (await client.get("/")).json() == ["acme"]
    assert await (await client.get("/")).json() == ["acme"]


@KINDS
async def test_no_context_is_left_in_the_task_of_the_connection(
    app, aio, serve, add_view, eventually, kind
):
    """aiohttp's task, which serves all requests of a connection, sees nothing of a request."""
    states = []

    @web.middleware
    async def look(request, handler):
        response = await handler(request)
        states.append((has_request_context(), has_app_context(), user.get()))
        return response

    app.aiohttp_app.middlewares.append(look)
    add_view(app, kind, "/", lambda: user.set("ann"), lambda: user.get())
    client = await serve(app)
    for _ in range(3):
        assert await (await client.get("/")).text() == "ann"
    await eventually(lambda: len(states) == 3)
    assert states == [(False, False, "nobody")] * 3
