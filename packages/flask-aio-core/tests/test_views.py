"""Views of every form run on the side they belong to; what they return becomes the response."""

from __future__ import annotations

import asyncio
import functools
import threading

import pytest
from flask import Blueprint, Flask, Response, current_app, make_response
from flask.views import MethodView, View
from werkzeug.routing import BaseConverter, ValidationError
from werkzeug.test import EnvironBuilder

from flask_aio_core import AioHTTP, async_, await_
from flask_aio_core.views import ViewOptions, ViewPlan, ViewPlans, make_plan

ON_LOOP = {"thread": "MainThread", "loop": True, "task": True}


def where():
    """Tell which thread and loop this runs in."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return {"thread": threading.current_thread().name, "loop": False, "task": False}
    return {
        "thread": threading.current_thread().name,
        "loop": loop is current_app.config["LOOP"],
        "task": asyncio.current_task() is not None,
    }


@pytest.fixture
def on_loop(app):
    """Check that a request ran on the server's loop, its hooks and its view."""
    app.config["LOOP"] = None
    sides = []

    @app.before_request
    def before():
        sides.append(threading.current_thread().name)

    async def check(client, path, method="GET", status=200):
        app.config["LOOP"] = asyncio.get_running_loop()
        sides.clear()
        response = await client.request(method, path)
        assert response.status == status
        if method != "HEAD":
            assert await response.json() == ON_LOOP
        assert sides == ["MainThread"], "the hooks, and so the request, ran in a worker thread"
        return response

    return check


def passing(view):
    """The usual decorator: keeps the name, leaves it to Flask to await."""

    @functools.wraps(view)
    def call(*args, **kwargs):
        response = current_app.make_response(current_app.ensure_sync(view)(*args, **kwargs))
        response.headers["X-Decorated"] = response.headers.get("X-Decorated", "") + "y"
        return response

    return call


def own_coroutine(view):
    """A decorator that is a coroutine function itself."""

    @functools.wraps(view)
    async def call(*args, **kwargs):
        await asyncio.sleep(0)
        return current_app.ensure_sync(view)(*args, **kwargs)

    return call


async def place(**_):
    await asyncio.sleep(0)
    return where()


async def test_coroutine_function_runs_on_the_loop(app, aio, serve, on_loop):
    """An async def view, and its hooks, run on the server's loop, in the request's task."""
    app.add_url_rule("/", view_func=place)
    await on_loop(await serve(app), "/")


async def test_synchronous_view_runs_in_a_worker_thread(app, aio, serve):
    """A plain view, and its hooks, run in one and the same thread, which has no loop."""
    threads = []
    app.before_request(lambda: threads.append(threading.current_thread().name))
    app.add_url_rule("/", "index", where)
    response = await (await serve(app)).get("/")
    assert await response.json() == {"thread": threads[0], "loop": False, "task": False}
    assert threads[0] != "MainThread"


@pytest.mark.parametrize("path", ["/outer/view", "/outer/inner/view"])
async def test_coroutine_view_of_a_blueprint_runs_on_the_loop(app, aio, serve, on_loop, path):
    """async def views of a blueprint, and of one nested in it, run on the server's loop."""
    outer = Blueprint("outer", "shop", url_prefix="/outer")
    inner = Blueprint("inner", "shop", url_prefix="/inner")
    outer.get("/view")(place)
    inner.get("/view")(place)
    outer.register_blueprint(inner)
    app.register_blueprint(outer)
    await on_loop(await serve(app), path)


@pytest.mark.parametrize("anew", [True, False])
@pytest.mark.parametrize("decorators", [[], [passing], [passing, own_coroutine]])
async def test_view_class_with_coroutine_dispatch_runs_on_the_loop(
    app, aio, serve, on_loop, anew, decorators
):
    """View with async dispatch_request runs on the loop, decorated, and one per request or not."""
    made = []

    class Index(View):
        init_every_request = anew

        def __init__(self, word):
            made.append(word)
            super().__init__()

        async def dispatch_request(self, n):  # type: ignore[override]
            await asyncio.sleep(0)
            return where()

    Index.decorators = list(reversed(decorators))
    app.add_url_rule("/<int:n>", view_func=Index.as_view("index", "hat"))
    client = await serve(app)
    for n in range(2):
        response = await on_loop(client, f"/{n}")
        assert ("X-Decorated" in response.headers) == (passing in decorators)
    assert made == ["hat"] * (2 if anew else 1)


@pytest.mark.parametrize("anew", [True, False])
async def test_each_method_of_a_method_view_runs_on_its_own_side(app, aio, serve, on_loop, anew):
    """async methods of a MethodView run on the loop, the plain ones beside them in a thread."""

    class Item(MethodView):
        init_every_request = anew

        async def get(self, n):
            await asyncio.sleep(0)
            return where()

        def post(self, n):
            return where()

        async def delete(self, n):
            await asyncio.sleep(0)
            return where(), 202

    app.add_url_rule("/<int:n>", view_func=Item.as_view("item"))
    client = await serve(app)
    await on_loop(client, "/1")
    await on_loop(client, "/1", "DELETE", status=202)
    head = await on_loop(client, "/1", "HEAD")
    assert int(head.headers["Content-Length"]) > 0
    assert await head.read() == b""
    posted = await (await client.post("/1")).json()
    assert posted["loop"] is False
    options = await client.options("/1")
    assert {*options.headers["Allow"].split(", ")} == {"GET", "HEAD", "POST", "DELETE", "OPTIONS"}
    assert (await client.put("/1")).status == 405


async def test_decorators_of_a_method_view_wrap_its_coroutine_methods(app, aio, serve, on_loop):
    """MethodView.decorators are applied, and do not hide that the method is a coroutine."""

    class Item(MethodView):
        decorators = [passing, passing]  # noqa: RUF012

        async def get(self):
            await asyncio.sleep(0)
            return where()

    app.add_url_rule("/", view_func=Item.as_view("item"))
    response = await on_loop(await serve(app), "/")
    assert response.headers["X-Decorated"] == "yy"


async def test_head_and_options_methods_of_ones_own_may_be_coroutines(app, aio, serve):
    """A MethodView's own async head and options answer instead of the automatic ones."""

    class Item(MethodView):
        provide_automatic_options = False
        methods = {"GET", "HEAD", "OPTIONS"}  # noqa: RUF012

        def get(self):
            return "from get"

        async def head(self):
            await asyncio.sleep(0)
            return "", 204, {"X-Thread": threading.current_thread().name}

        async def options(self):
            await asyncio.sleep(0)
            return "", 204, {"X-Thread": threading.current_thread().name}

    app.add_url_rule("/", view_func=Item.as_view("item"))
    client = await serve(app)
    for method in ("HEAD", "OPTIONS"):
        response = await client.request(method, "/")
        assert (response.status, response.headers["X-Thread"]) == (204, "MainThread")
    assert await (await client.get("/")).text() == "from get"


async def test_automatic_head_and_options_work_for_a_coroutine_view(app, aio, serve, on_loop):
    """HEAD of a coroutine view runs it and sends no body; OPTIONS lists its methods."""
    app.add_url_rule("/", view_func=place)
    client = await serve(app)
    response = await on_loop(client, "/", "HEAD")
    assert await response.read() == b""
    options = await client.options("/")
    assert {*options.headers["Allow"].split(", ")} == {"GET", "HEAD", "OPTIONS"}


@pytest.mark.parametrize(
    "decorators", [[passing], [passing, passing], [own_coroutine], [passing, own_coroutine]]
)
async def test_decorated_coroutine_view_runs_on_the_loop(app, aio, serve, on_loop, decorators):
    """Decorators that use functools.wraps and ensure_sync leave a coroutine view on the loop."""
    view = place
    for decorator in reversed(decorators):
        view = decorator(view)
    app.add_url_rule("/", "index", view)
    response = await on_loop(await serve(app), "/")
    assert response.headers.get("X-Decorated", "") == "y" * decorators.count(passing)


async def test_decorator_without_wraps_still_awaits_on_the_loop(app, aio, serve):
    """A decorator that hides its coroutine view moves the request to a thread, not the view."""
    app.config["LOOP"] = asyncio.get_running_loop()

    def hiding(view):
        return lambda: current_app.ensure_sync(view)()

    app.add_url_rule("/", "index", hiding(place))
    response = await (await serve(app)).get("/")
    assert await response.json() == ON_LOOP


async def test_partial_of_a_coroutine_function_runs_on_the_loop(app, aio, serve, on_loop):
    """functools.partial of an async def is a coroutine view."""
    app.add_url_rule("/", "index", functools.partial(place, extra=1))
    await on_loop(await serve(app), "/")


async def test_object_with_asynchronous_call_runs_on_the_loop(app, aio, serve, on_loop):
    """An object whose __call__ is async def is a coroutine view, which Flask cannot tell."""

    class Index:
        async def __call__(self):
            await asyncio.sleep(0)
            return where()

    app.add_url_rule("/", "index", Index())
    await on_loop(await serve(app), "/")


@pytest.mark.parametrize("side", ["loop", "thread"])
@pytest.mark.parametrize(
    ("shape", "status", "header"),
    [
        (lambda coroutine: coroutine, 200, None),
        (lambda coroutine: (coroutine, 201), 201, None),
        (lambda coroutine: (coroutine, {"X-Color": "red"}), 200, "red"),
        (lambda coroutine: (coroutine, 201, {"X-Color": "red"}), 201, "red"),
    ],
)
async def test_awaitable_that_a_view_returns_is_awaited(
    app, aio, serve, side, shape, status, header
):
    """A coroutine that no one has awaited, alone or in a tuple, is awaited by make_response."""
    app.config["LOOP"] = asyncio.get_running_loop()

    def index():
        return shape(place())

    app.add_url_rule("/", "index", async_(index) if side == "loop" else index)
    response = await (await serve(app)).get("/")
    assert (response.status, response.headers.get("X-Color")) == (status, header)
    assert await response.json() == ON_LOOP


async def test_lambda_that_returns_a_coroutine_is_a_view(app, aio, serve):
    """A lambda that returns a coroutine answers with what the coroutine returns."""
    app.config["LOOP"] = asyncio.get_running_loop()
    app.add_url_rule("/", "index", lambda: place())
    assert await (await (await serve(app)).get("/")).json() == ON_LOOP


@pytest.mark.parametrize("kind", ["coroutine", "synchronous"])
async def test_make_response_awaits_a_coroutine(app, aio, serve, kind):
    """flask.make_response(coroutine()) returns the finished response in either kind of view."""

    async def body():
        await asyncio.sleep(0)
        return "made", 202

    def answer():
        response = make_response(body())
        assert isinstance(response, Response)
        response.headers["X-Made"] = str(response.status_code)
        return response

    async def coroutine():
        return answer()

    app.add_url_rule("/", view_func=answer if kind == "synchronous" else coroutine)
    response = await (await serve(app)).get("/")
    assert (response.status, response.headers["X-Made"]) == (202, "202")
    assert await response.text() == "made"


async def test_future_and_nested_awaitables_are_awaited(app, aio, serve):
    """A task that a coroutine view returns is awaited, and a coroutine that returns a coroutine."""

    async def inner():
        await asyncio.sleep(0)
        return "inner"

    @app.get("/task")
    async def task():
        return asyncio.create_task(inner())

    @app.get("/nested")
    async def nested():
        return inner()

    client = await serve(app)
    assert await (await client.get("/task")).text() == "inner"
    assert await (await client.get("/nested")).text() == "inner"


async def test_coroutine_view_may_return_all_that_flask_takes(app, aio, serve):
    """str, bytes, dict, list, tuple, Response and WSGI callables come out as Flask makes them."""
    values = {
        "str": ("text", "text"),
        "bytes": (b"bytes", "bytes"),
        "dict": ({"a": 1}, '{"a":1}\n'),
        "list": ([1, 2], "[1,2]\n"),
        "response": (Response("response"), "response"),
        "tuple": (("body", 200, [("X-A", "b")]), "body"),
        "generator": ((word for word in ("a", "b")), "ab"),
    }

    @app.get("/<name>")
    async def index(name):
        await asyncio.sleep(0)
        return values[name][0]

    @app.get("/none")
    async def none():
        await asyncio.sleep(0)

    client = await serve(app)
    for name, (_, text) in values.items():
        assert await (await client.get(f"/{name}")).text() == text
    assert (await client.get("/none")).status == 500


# The decision itself.


async def coroutine_view():
    """A coroutine function."""


async def stream_view():
    """An async generator function."""
    yield ""


def plain_view():
    """A plain function."""


def generator_view():
    """A generator function."""
    yield ""


def wrapped(function, **attributes):
    @functools.wraps(function)
    def call():
        """A wrapper."""

    for name, value in attributes.items():
        setattr(call, name, value)
    return call


class Asynchronous:
    async def __call__(self):
        """A coroutine method."""

    async def method(self):
        """Another one."""

    @classmethod
    async def of_class(cls):
        """One of the class."""

    @staticmethod
    async def static():
        """One of neither."""


class Plain:
    def __call__(self):
        """A plain method."""

    async def method(self):
        """A coroutine method that is not the one which is called."""


@pytest.mark.parametrize(
    ("view", "is_coroutine"),
    [
        (coroutine_view, True),
        (stream_view, True),
        (plain_view, False),
        (generator_view, False),
        (lambda: coroutine_view(), False),
        (functools.partial(coroutine_view), True),
        (functools.partial(functools.partial(coroutine_view)), True),
        (functools.partial(plain_view), False),
        (functools.partial(Asynchronous()), True),
        (wrapped(coroutine_view), True),
        (wrapped(wrapped(wrapped(stream_view))), True),
        (wrapped(functools.partial(wrapped(coroutine_view))), True),
        (wrapped(plain_view), False),
        (wrapped(wrapped(plain_view)), False),
        (Asynchronous(), True),
        (Asynchronous().method, True),
        (Asynchronous.of_class, True),
        (Asynchronous.static, True),
        (Plain(), False),
        (Plain, False),
        (wrapped(plain_view, func=coroutine_view), True),
        (wrapped(plain_view, func="not callable"), False),
        (len, False),
        (type, False),
    ],
)
def test_plan_looks_through_all_that_wraps_the_view(view, is_coroutine):
    """A view is a coroutine if it, or anything that it wraps, is one."""
    assert make_plan(view, "GET") == ViewPlan(is_coroutine, ViewOptions())


def test_plan_ends_for_functions_that_wrap_each_other():
    """A cycle of __wrapped__ attributes does not hang the planning."""
    first, second = wrapped(plain_view), wrapped(plain_view)
    vars(first)["__wrapped__"], vars(second)["__wrapped__"] = second, first
    assert make_plan(first, "GET").is_coroutine is False
    vars(second)["func"] = coroutine_view
    assert make_plan(first, "GET").is_coroutine is True


def test_plan_of_a_view_class_depends_on_the_method():
    """For a MethodView the function that answers the method decides; HEAD falls back to GET."""

    class Item(MethodView):
        async def get(self):
            """Asynchronous."""

        def post(self):
            """Synchronous."""

    class Other(Item):
        def head(self):
            """Synchronous, although get is not."""

    item, other = Item.as_view("item"), Other.as_view("other")
    assert [make_plan(item, method).is_coroutine for method in ("GET", "HEAD", "POST")] == [
        True,
        True,
        False,
    ]
    assert make_plan(other, "HEAD").is_coroutine is False
    assert make_plan(item, "OPTIONS").is_coroutine is False


def test_plan_takes_each_option_from_the_outermost_layer_that_sets_it():
    """Options of stacked async_ decorators add up; the outer one wins where both set the same."""
    inner = async_(cancel_on_disconnect=True, hooks_in_thread=True)(coroutine_view)
    outer = async_(cancel_on_disconnect=False)(wrapped(inner))
    assert make_plan(outer, "GET") == ViewPlan(True, ViewOptions(False, True))
    assert make_plan(wrapped(inner), "GET") == ViewPlan(True, ViewOptions(True, True))


def plan_for(app: Flask, path: str, *, method: str = "GET", host: str = "localhost") -> ViewPlan:
    environ = EnvironBuilder(path=path, method=method, base_url=f"http://{host}").get_environ()
    return ViewPlans().for_environ(app, environ)


@pytest.mark.parametrize(
    ("path", "method"), [("/no/such", "GET"), ("/slash", "GET"), ("/view", "POST")]
)
def test_plan_is_synchronous_where_flask_itself_answers(app, path, method):
    """No rule, a redirect and a wrong method are left to a thread."""
    app.get("/view")(coroutine_view)
    app.get("/slash/")(stream_view)
    assert plan_for(app, "/view").is_coroutine is True
    assert plan_for(app, path, method=method).is_coroutine is False


def test_plan_of_a_view_that_cannot_be_hashed(app):
    """A callable object without a hash is planned like any other."""

    class Unhashable(Asynchronous):
        __hash__ = None  # type: ignore[assignment]

    app.add_url_rule("/", "index", Unhashable())
    assert plan_for(app, "/").is_coroutine is True


def test_plan_is_made_once_for_each_view_and_method(app):
    """The second request for a view does not inspect it again."""
    looked = []

    class Counting:
        @property
        def __wrapped__(self):
            looked.append(1)
            return coroutine_view

        def __call__(self):
            """Called by nobody."""

    app.add_url_rule("/", "index", Counting())
    plans = ViewPlans()
    for _ in range(3):
        assert plans.for_endpoint(app, "index", "GET").is_coroutine
    assert len(looked) == 1
    assert plans.for_endpoint(app, None, "GET").is_coroutine is False
    assert plans.for_endpoint(app, "unknown", "GET").is_coroutine is False


def test_plan_follows_a_view_function_that_is_replaced(app):
    """A view that an extension puts in the place of another is planned anew."""
    app.add_url_rule("/", "index", coroutine_view)
    plans = ViewPlans()
    assert plans.for_endpoint(app, "index", "GET").is_coroutine is True
    app.view_functions["index"] = plain_view
    assert plans.for_endpoint(app, "index", "GET").is_coroutine is False


def test_plan_of_an_app_with_host_matching():
    """Where rules have hosts, the view of the request's host decides."""
    app = Flask("shop", host_matching=True, static_host="static.test")
    app.add_url_rule("/", "a", coroutine_view, host="a.test")
    app.add_url_rule("/", "b", plain_view, host="b.test:8080")
    assert plan_for(app, "/", host="a.test").is_coroutine is True
    assert plan_for(app, "/", host="b.test:8080").is_coroutine is False
    assert plan_for(app, "/", host="c.test").is_coroutine is False


@pytest.mark.parametrize("server_name", ["shop.test", "shop.test:8080"])
def test_plan_of_an_app_with_subdomain_matching(server_name):
    """Where rules have subdomains, the view of the request's subdomain decides."""
    app = Flask("shop", subdomain_matching=True)
    app.config["SERVER_NAME"] = server_name
    app.add_url_rule("/", "index", plain_view)
    app.add_url_rule("/", "api", coroutine_view, subdomain="api")
    assert plan_for(app, "/", host=f"api.{server_name}").is_coroutine is True
    assert plan_for(app, "/", host=server_name).is_coroutine is False


def test_plan_of_an_app_with_a_server_name_takes_any_host(app):
    """Without subdomain matching SERVER_NAME does not limit which hosts are answered."""
    app.config["SERVER_NAME"] = "shop.test"
    app.get("/")(coroutine_view)
    assert plan_for(app, "/", host="shop.test").is_coroutine is True
    assert plan_for(app, "/", host="127.0.0.1:5000").is_coroutine is True


class EvenConverter(BaseConverter):
    """Refuses odd numbers, fails for zero."""

    def to_python(self, value):
        number = 10 // int(value)
        if int(value) % 2:
            raise ValidationError
        return number


def test_plan_with_a_custom_converter(app):
    """Converters are asked; one that fails leaves the decision, and the error, to Flask."""
    app.url_map.converters["even"] = EvenConverter
    app.add_url_rule("/<even:n>", "index", coroutine_view)
    assert plan_for(app, "/2").is_coroutine is True
    assert plan_for(app, "/3").is_coroutine is False
    assert plan_for(app, "/0").is_coroutine is False


async def test_converter_that_suspends_is_answered_in_a_thread(app, aio, serve):
    """A converter that waits cannot do so before the app is called: a thread serves the request."""
    waited = []

    class Slow(BaseConverter):
        def to_python(self, value):
            waited.append(await_(asyncio.sleep(0, threading.current_thread().name)))
            return value

    app.url_map.converters["slow"] = Slow
    app.config["LOOP"] = asyncio.get_running_loop()
    app.add_url_rule("/<slow:what>", "index", place)
    client = await serve(app)
    assert await (await client.get("/hat")).json() == ON_LOOP
    assert len(waited) == 1
    assert waited != ["MainThread"]


async def test_converter_that_fails_is_reported_by_flask(app, aio, serve, caplog):
    """An error in a converter is answered as in plain Flask, with 500, and is logged."""
    app.url_map.converters["even"] = EvenConverter

    @app.get("/<even:n>")
    async def index(n):
        return str(n)

    client = await serve(app)
    assert await (await client.get("/2")).text() == "5"
    assert (await client.get("/3")).status == 404
    assert (await client.get("/0")).status == 500
    assert "ZeroDivisionError" in caplog.text


async def test_views_of_an_app_with_host_matching_run_on_their_own_side(serve):
    """Two views of one path, told apart by the host, run on the loop and in a thread."""
    app = Flask("shop", host_matching=True, static_host="static.test")
    AioHTTP(app)
    app.config["LOOP"] = asyncio.get_running_loop()
    app.add_url_rule("/", "a", place, host="a.test")
    app.add_url_rule("/", "b", where, host="b.test")
    client = await serve(app)
    response = await client.get("/", headers={"Host": "a.test"})
    assert await response.json() == ON_LOOP
    response = await client.get("/", headers={"Host": "b.test"})
    assert (await response.json())["loop"] is False


async def test_view_that_waits_synchronously_on_either_side(app, aio, serve):
    """await_ in a decorator works the same around coroutine and plain views."""

    def slow(view):
        @functools.wraps(view)
        def call():
            await_(asyncio.sleep(0))
            return current_app.ensure_sync(view)()

        return call

    app.add_url_rule("/coroutine", "coroutine", slow(place))
    app.add_url_rule("/plain", "plain", slow(where))
    app.config["LOOP"] = asyncio.get_running_loop()
    client = await serve(app)
    assert await (await client.get("/coroutine")).json() == ON_LOOP
    assert (await (await client.get("/plain")).json())["loop"] is False
