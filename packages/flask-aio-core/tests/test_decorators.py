"""``async_`` and ``in_thread`` as decorators: what they make of a function, and keep of it."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading

import pytest
from flask import request
from flask.views import MethodView

from flask_aio_core import async_, in_thread
from flask_aio_core.views import ViewOptions, make_plan


def plain(a, *, b=2):
    """Plain."""
    return f"{a}{b}{threading.current_thread().name}"


async def coroutine(a, *, b=2):
    """Coroutine."""
    await asyncio.sleep(0)
    return f"{a}{b}{threading.current_thread().name}"


def legacy(a, *, b=2):
    """Legacy."""
    yield from asyncio.sleep(0)  # type: ignore[misc]
    word = yield from coroutine(a, b=b)  # type: ignore[misc]
    yield
    return word


async def stream(a, *, b=2):
    """Stream."""
    await asyncio.sleep(0)
    yield f"{a}{b}"
    yield threading.current_thread().name


FUNCTIONS = pytest.mark.parametrize("function", [plain, coroutine, legacy, stream])
OPTIONS = pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ViewOptions()),
        ({"cancel_on_disconnect": True}, ViewOptions(True, None)),
        ({"hooks_in_thread": True}, ViewOptions(None, True)),
        ({"cancel_on_disconnect": False, "hooks_in_thread": False}, ViewOptions(False, False)),
    ],
)


@FUNCTIONS
@pytest.mark.parametrize("decorator", [async_, async_(), async_(hooks_in_thread=True)])
def test_async_keeps_what_tells_a_function_from_others(function, decorator):
    """Name, module, docstring, attributes and signature of a function stay what they were."""
    vars(function)["role"] = "admin"
    try:
        decorated = decorator(function)
        assert decorated.role == "admin"
    finally:
        del vars(function)["role"]
    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        assert getattr(decorated, name) == getattr(function, name)
    assert inspect.signature(decorated) == inspect.signature(function)
    assert decorated.__wrapped__ is function


@FUNCTIONS
@OPTIONS
def test_async_leaves_the_function_that_it_is_given_as_it_was(function, options, expected):
    """The undecorated function has no options and is no other kind of function than before."""
    before = (function.__code__, dict(vars(function)))
    decorated = async_(**options)(function)
    assert (function.__code__, dict(vars(function))) == before
    assert make_plan(decorated, "GET") == (True, expected)
    assert make_plan(function, "GET").options == ViewOptions()


def test_in_thread_keeps_name_module_and_attributes():
    """in_thread's wrapper has name, module, docstring, attributes, signature of the function."""
    vars(plain)["role"] = "admin"
    try:
        decorated = in_thread(plain)
        assert vars(decorated)["role"] == "admin"
    finally:
        del vars(plain)["role"]
    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        assert getattr(decorated, name) == getattr(plain, name)
    assert inspect.signature(decorated) == inspect.signature(plain)


@FUNCTIONS
@pytest.mark.parametrize("options", [None, {}, {"cancel_on_disconnect": True}])
async def test_decorated_function_of_each_kind_is_a_view_on_the_loop(
    app, aio, serve, function, options
):
    """async_ runs plain, async def, yield-from and async generator functions on the loop."""
    sides = []
    app.before_request(lambda: sides.append(threading.current_thread().name))
    decorator = async_ if options is None else async_(**options)
    app.get("/<a>")(decorator(function))
    client = await serve(app)
    assert await (await client.get("/hat")).text() == "hat2MainThread"
    assert sides == ["MainThread"]


@FUNCTIONS
async def test_hooks_in_thread_moves_the_hooks_only(app, aio, serve, function):
    """With hooks_in_thread the hooks run in a worker thread, the view still runs on the loop."""
    sides = []
    app.before_request(lambda: sides.append(threading.current_thread().name))
    app.get("/<a>")(async_(hooks_in_thread=True)(function))
    client = await serve(app)
    assert await (await client.get("/hat")).text() == "hat2MainThread"
    assert len(sides) == 1
    assert sides != ["MainThread"]


async def test_hooks_in_thread_false_overrides_the_configuration(app, aio, serve):
    """A view's hooks_in_thread=False wins over AIO_HOOKS_IN_THREAD."""
    app.config["AIO_HOOKS_IN_THREAD"] = True
    sides = []
    app.before_request(lambda: sides.append(threading.current_thread().name))
    app.get("/own/<a>")(async_(hooks_in_thread=False)(plain))
    app.get("/<a>")(coroutine)
    client = await serve(app)
    await client.get("/own/hat")
    await client.get("/hat")
    assert sides[0] == "MainThread"
    assert sides[1] != "MainThread"


async def test_generator_view_waits_with_yield_from(app, aio, serve):
    """yield from takes coroutines, futures, tasks and other such generators, and returns values."""

    @async_
    def nested(word):
        yield from asyncio.sleep(0)  # type: ignore[misc]
        return word + word

    @app.get("/")
    @async_
    def index():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.call_soon(future.set_result, "a")
        words = [(yield from future)]
        words.append((yield from asyncio.ensure_future(asyncio.sleep(0, "b"))))
        words.append((yield from nested("c")))
        words += yield from asyncio.gather(asyncio.sleep(0, "d"), asyncio.sleep(0, "e"))
        return [*words, request.path]

    client = await serve(app)
    assert await (await client.get("/")).json() == ["a", "b", "cc", "d", "e", "/"]


async def test_error_inside_yield_from_reaches_the_generator_view(app, aio, serve):
    """An exception of what a generator view waits for is raised at its yield from."""

    async def fail():
        await asyncio.sleep(0)
        raise KeyError("hat")

    @app.get("/")
    @async_
    def index():
        try:
            yield from fail()  # type: ignore[misc]
        except KeyError as error:
            return f"caught {error}"

    client = await serve(app)
    assert await (await client.get("/")).text() == "caught 'hat'"


@pytest.mark.parametrize("kind", ["handled", "raised"])
async def test_generator_view_that_yields_a_value_is_told_what_is_wrong(
    app, aio, serve, caplog, kind
):
    """Yielding anything but an awaitable raises a TypeError at the yield, which says what to do."""

    @app.get("/")
    @async_
    def index():
        if kind == "raised":
            yield "a chunk"
        try:
            yield 1
        except TypeError as error:
            return str(error)

    client = await serve(app)
    response = await client.get("/")
    if kind == "raised":
        assert response.status == 500
        assert "yielded 'a chunk'" in caplog.text
    else:
        assert "yielded 1" in await response.text()
        assert "return a generator or an async generator" in await response.text()


async def test_generator_function_with_closure_and_defaults_keeps_them(app, aio, serve):
    """What a generator view closes over, and its defaults, are those of the original function."""
    words = ["a"]

    @app.get("/")
    @async_
    def index(word="b", *, other="c"):
        yield from asyncio.sleep(0)  # type: ignore[misc]
        words.append(word)
        return [*words, other]

    client = await serve(app)
    assert await (await client.get("/")).json() == ["a", "b", "c"]
    assert words == ["a", "b"]


async def test_async_on_methods_of_a_view_class(app, aio, serve):
    """async_ decorates the methods of a MethodView, generator functions among them."""

    class Item(MethodView):
        @async_
        def get(self):
            yield from asyncio.sleep(0)  # type: ignore[misc]
            return threading.current_thread().name

        @async_(hooks_in_thread=True)
        async def post(self):
            await asyncio.sleep(0)
            return threading.current_thread().name

    sides = []
    app.before_request(lambda: sides.append(threading.current_thread().name))
    app.add_url_rule("/", view_func=Item.as_view("item"))
    client = await serve(app)
    assert await (await client.get("/")).text() == "MainThread"
    assert await (await client.post("/")).text() == "MainThread"
    assert sides[0] == "MainThread"
    assert sides[1] != "MainThread"


async def test_async_takes_partials_and_callable_objects(app, aio, serve):
    """async_ also decorates functools.partial objects and objects with __call__."""

    class Index:
        def __call__(self):
            return threading.current_thread().name

    app.add_url_rule("/object", "object", async_(Index()))
    app.add_url_rule("/partial", "partial", async_(functools.partial(plain, "hat")))
    app.add_url_rule("/coroutine", "coroutine", async_(functools.partial(coroutine, "hat")))
    client = await serve(app)
    assert await (await client.get("/object")).text() == "MainThread"
    for path in ("/partial", "/coroutine"):
        assert await (await client.get(path)).text() == "hat2MainThread"


async def test_async_takes_partials_and_bound_methods_of_generator_functions(app, aio, serve):
    """async_ finds the generator function inside a functools.partial and a bound method."""

    class Index:
        word = "hat"

        def legacy(self):
            return (yield from coroutine(self.word))  # type: ignore[misc]

    app.add_url_rule("/method", "method", async_(Index().legacy))
    app.add_url_rule("/partial", "partial", async_(functools.partial(legacy, "hat")))
    client = await serve(app)
    for path in ("/method", "/partial"):
        assert await (await client.get(path)).text() == "hat2MainThread"


async def test_async_view_of_an_object_with_asynchronous_call(app, aio, serve):
    """async_ on an object whose __call__ is a coroutine method runs that on the loop."""

    class Index:
        async def __call__(self):
            await asyncio.sleep(0)
            return threading.current_thread().name

    app.add_url_rule("/", "index", async_(Index()))
    client = await serve(app)
    assert await (await client.get("/")).text() == "MainThread"


def test_decorated_functions_are_awaited_directly():
    """What async_ returns can be awaited or iterated outside of any app."""

    async def use():
        words = [await async_(function)("hat") for function in (plain, coroutine, legacy)]
        words.append("".join([chunk async for chunk in async_(stream)("hat")]))
        return words

    assert asyncio.run(use()) == ["hat2MainThread"] * 4


@pytest.mark.parametrize("value", [1, "view", None, []])
def test_async_refuses_what_is_not_callable(value):
    """async_ says so when it decorates something that is not a function."""
    with pytest.raises(TypeError, match="async_ decorates functions, not "):
        async_(hooks_in_thread=True)(value)


def test_async_takes_its_options_by_name_only():
    """An option that is passed by position is refused when the module is imported."""
    with pytest.raises(TypeError):
        async_(True)  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        async_(plain, True)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("function", "words"),
    [(coroutine, "is asynchronous"), (stream, "is asynchronous"), (legacy, "is a generator")],
)
def test_in_thread_refuses_functions_that_do_not_block(function, words):
    """in_thread names the function, and the reason why it cannot take it."""
    with pytest.raises(TypeError, match=f"{function.__name__}' {words}"):
        in_thread(function)


def test_in_thread_refuses_a_partial_of_a_coroutine_function():
    """in_thread says what is wrong also where the function has no name of its own."""
    with pytest.raises(TypeError, match="is asynchronous"):
        in_thread(functools.partial(coroutine, "hat"))


def test_decorated_view_works_in_the_test_client(app, aio):
    """Under Flask's own test client the decorated views answer as under the server."""
    for function in (plain, coroutine, legacy, stream):
        app.add_url_rule(f"/{function.__name__}/<a>", function.__name__, async_(function))
    client = app.test_client()
    for name in ("plain", "coroutine", "legacy", "stream"):
        with client.get(f"/{name}/hat") as response:
            assert response.text.startswith("hat2")
    aio.close()


def test_async_view_of_an_app_without_the_extension_is_a_coroutine_function():
    """To a plain Flask app a decorated view of any kind is an ordinary coroutine function."""
    for function in (plain, coroutine, legacy):
        assert inspect.iscoroutinefunction(async_(function))
    assert not inspect.iscoroutinefunction(async_(stream))
