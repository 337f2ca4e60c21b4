"""Flask's hooks: each runs once, in Flask's own order, whether it is a coroutine or not."""

from __future__ import annotations

import asyncio
import itertools
import threading

import pytest
from flask import Blueprint, Flask, abort, render_template_string, request
from werkzeug.exceptions import HTTPException

from flask_aio_core import AioHTTP, async_, await_

VIEWS = pytest.mark.parametrize("view", ["synchronous", "coroutine", "hooks in thread"])
HOOKS = pytest.mark.parametrize("hooks", ["synchronous", "coroutine", "mixed"])


class OutOfStock(Exception):
    """An error that the blueprints handle."""


class Maker:
    """Makes functions that record their calls, as coroutine functions where it is told to."""

    def __init__(self, record, hooks):
        self.record = record
        self._asynchronous = {
            "synchronous": itertools.repeat(False),
            "coroutine": itertools.repeat(True),
            "mixed": itertools.cycle([True, False, False, True, True]),
        }[hooks]

    def __call__(self, name, function=lambda *args: None):
        def note(*args):
            self.record.append((name, *map(repr, args)))
            return function(*args)

        async def note_later(*args):
            await asyncio.sleep(0)
            self.record.append((name, *map(repr, args)))
            await asyncio.sleep(0)
            return function(*args)

        return note_later if next(self._asynchronous) else note


def same(value):
    return value


def build(record, *, hooks="synchronous", view="synchronous", extension=True):
    """Build an app with each hook twice, app-wide, on a blueprint and on one nested in it."""
    app = Flask("shop")
    app.config["PROPAGATE_EXCEPTIONS"] = False
    if extension:
        AioHTTP(app)
    hook = Maker(record, hooks)

    def header(name):
        def add(response):
            response.headers["X-Order"] = response.headers.get("X-Order", "") + name
            return response

        return add

    def stop_early():
        return "stopped" if request.args.get("stop") == request.blueprint else None

    def fail_after(response):
        if "fail-after" in request.args:
            raise OutOfStock("after")
        return response

    def add_hooks(owner, name):
        for n in (1, 2):
            owner.before_request(hook(f"before {name} {n}"))
            owner.after_request(hook(f"after {name} {n}", header(f"{name}{n}")))
            owner.teardown_request(hook(f"teardown {name} {n}"))
            owner.url_value_preprocessor(hook(f"values {name} {n}"))
            owner.context_processor(hook(f"context {name} {n}", lambda: {"word": "from hook"}))
        owner.after_request(hook(f"after {name} 3", fail_after))
        owner.before_request(hook(f"before {name} 3", stop_early))

    add_hooks(app, "app")
    app.teardown_appcontext(hook("teardown appcontext 1"))
    app.teardown_appcontext(hook("teardown appcontext 2"))
    outer = Blueprint("outer", "shop", url_prefix="/outer")
    inner = Blueprint("inner", "shop", url_prefix="/inner")
    add_hooks(outer, "outer")
    add_hooks(inner, "inner")
    inner.before_app_request(hook("before app, by inner"))
    inner.after_app_request(hook("after app, by inner", header("a")))
    inner.teardown_app_request(hook("teardown app, by inner"))
    inner.app_url_value_preprocessor(hook("values app, by inner"))
    inner.app_context_processor(hook("context app, by inner", dict))
    app.errorhandler(404)(hook("404 app", lambda error: ("none", 404)))
    app.errorhandler(500)(hook("500 app", lambda error: ("broken", 500)))
    app.errorhandler(HTTPException)(hook("http app", same))
    outer.errorhandler(OutOfStock)(hook("stock outer", lambda error: ("sold out", 409)))
    outer.errorhandler(409)(hook("409 outer", lambda error: ("conflict", 409)))
    inner.errorhandler(409)(hook("409 inner", lambda error: ("inner conflict", 409)))
    inner.app_errorhandler(410)(hook("410 app, by inner", lambda error: ("gone", 410)))

    def answer(what):
        record.append(("view", what))
        if what == "stock":
            raise OutOfStock(what)
        if what == "zero":
            raise ZeroDivisionError(what)
        if what.isdigit():
            abort(int(what))
        if what == "template":
            return render_template_string("{{ word }}")
        return f"answer {what}"

    async def coroutine(what):
        await asyncio.sleep(0)
        return answer(what)

    function = answer
    if view == "coroutine":
        function = coroutine
    elif view == "hooks in thread":
        function = async_(hooks_in_thread=True)(coroutine)
    for owner in (app, outer, inner):
        owner.add_url_rule("/<what>", "answer", function)
    outer.register_blueprint(inner)
    app.register_blueprint(outer)
    return app


PATHS = [
    "/plain",
    "/outer/plain",
    "/outer/inner/plain",
    "/outer/inner/template",
    "/outer/template",
    "/outer/inner/plain?stop=outer.inner",
    "/outer/plain?stop=outer",
    "/outer/stock",
    "/outer/inner/stock",
    "/stock",
    "/outer/inner/zero",
    "/zero",
    "/404",
    "/outer/inner/404",
    "/outer/409",
    "/outer/inner/409",
    "/outer/410",
    "/outer/418",
    "/no/such/page",
    "/outer/inner/plain?fail-after",
    "/outer/inner/plain/",
]


@HOOKS
@VIEWS
@pytest.mark.parametrize("path", PATHS)
async def test_hooks_run_once_and_in_the_order_of_plain_flask(serve, view, hooks, path):
    """The record of all hooks of a request, and the response, equal those of Flask alone."""
    expected: list[tuple[str, ...]] = []
    plain = build(expected, extension=False).test_client().get(path)
    assert len(expected) > 10

    record: list[tuple[str, ...]] = []
    app = build(record, hooks=hooks, view=view)
    client = await serve(app)
    record.clear()
    response = await client.get(path)
    body = await response.text()
    await client.close()
    # The server's own app contexts, at start and stop, are torn down as well.
    request_only = record[: len(expected)]
    rest = record[len(expected) :]
    assert request_only == expected
    assert {name for name, *_ in rest} <= {"teardown appcontext 1", "teardown appcontext 2"}
    assert len(rest) == 2
    assert (response.status, body) == (plain.status_code, plain.text)
    assert response.headers.get("X-Order") == plain.headers.get("X-Order")


def start_private_loop(app):
    """Start what serves the app without a server: its own app context would be recorded."""
    with app.app_context():
        await_(asyncio.sleep(0))


@HOOKS
@VIEWS
def test_hooks_keep_flasks_order_under_its_test_client(view, hooks):
    """Without a server, hooks of either kind run once and in Flask's order as well."""
    for path in PATHS:
        expected: list[tuple[str, ...]] = []
        plain = build(expected, extension=False).test_client().get(path)
        record: list[tuple[str, ...]] = []
        client = build(record, hooks=hooks, view=view).test_client()
        start_private_loop(client.application)
        record.clear()
        response = client.get(path)
        assert record == expected
        assert (response.status_code, response.text) == (plain.status_code, plain.text)


@HOOKS
@VIEWS
async def test_url_value_preprocessor_may_take_values_away(app, aio, serve, view, hooks):
    """A url_value_preprocessor of either kind changes the arguments that the view is given."""
    make = Maker([], hooks)

    def take(endpoint, values):
        seen.append((endpoint, values.pop("lang")))

    seen: list[tuple[str, str]] = []
    shop = Blueprint("shop", "shop", url_prefix="/<lang>")
    shop.url_value_preprocessor(make("values", take))

    def answer(what):
        return what

    async def coroutine(what):
        return what

    if view == "synchronous":
        shop.add_url_rule("/<what>", "answer", answer)
    else:
        shop.add_url_rule(
            "/<what>", "answer", async_(hooks_in_thread=view == "hooks in thread")(coroutine)
        )
    app.register_blueprint(shop)
    client = await serve(app)
    assert await (await client.get("/de/hat")).text() == "hat"
    assert await (await client.get("/fr/coat")).text() == "coat"
    assert seen == [("shop.answer", "de"), ("shop.answer", "fr")]


@HOOKS
@pytest.mark.parametrize("view", ["synchronous", "coroutine"])
async def test_teardown_is_given_the_unhandled_error(app, aio, serve, eventually, view, hooks):
    """Teardown functions of either kind get the exception that nothing handled, else None."""
    record: list[tuple[str, ...]] = []
    make = Maker(record, hooks)
    app.teardown_request(make("request"))
    app.teardown_appcontext(make("app"))
    app.config["PROPAGATE_EXCEPTIONS"] = True

    def answer(what):
        if what == "bad":
            raise ValueError(what)
        return what

    async def coroutine(what):
        await asyncio.sleep(0)
        return answer(what)

    app.add_url_rule("/<what>", view_func=answer if view == "synchronous" else coroutine)
    client = await serve(app)
    for what, error in (("good", "None"), ("bad", "ValueError('bad')")):
        record.clear()
        await client.get(f"/{what}")
        await eventually(lambda: len(record) == 2)
        assert record == [("request", error), ("app", error)]


@pytest.mark.parametrize("hooks", ["synchronous", "coroutine"])
@VIEWS
async def test_hooks_stay_on_the_side_of_their_request(app, aio, serve, eventually, view, hooks):
    """Synchronous hooks run in the request's one thread or on the loop, coroutines on the loop."""
    places = {}

    def look(name):
        def hook(value=None):
            places[name] = threading.current_thread()
            return value

        async def coroutine_hook(value=None):
            await asyncio.sleep(0)
            return hook(value)

        return hook if hooks == "synchronous" else coroutine_hook

    app.before_request(look("before"))
    app.after_request(look("after"))
    app.teardown_request(look("teardown"))
    app.teardown_appcontext(look("teardown app"))

    def index():
        look_at_view()
        raise KeyError("hat")

    async def coroutine():
        await asyncio.sleep(0)
        look_at_view()
        raise KeyError("hat")

    def look_at_view():
        places["view"] = threading.current_thread()

    @app.errorhandler(KeyError)
    def handler(error):
        places["handler"] = threading.current_thread()
        return "handled"

    if view == "synchronous":
        app.add_url_rule("/", "index", index)
    else:
        app.config["AIO_HOOKS_IN_THREAD"] = view == "hooks in thread"
        app.add_url_rule("/", "index", coroutine)
    client = await serve(app)
    assert await (await client.get("/")).text() == "handled"
    await eventually(lambda: "teardown app" in places)
    loop = threading.current_thread()
    in_view, in_handler = places.pop("view"), places.pop("handler")
    of_hooks = set(places.values())
    assert len(of_hooks) == 1
    if view == "coroutine":
        assert {in_view, in_handler} | of_hooks == {loop}
    else:
        assert in_view is (loop if view == "hooks in thread" else in_handler)
        assert in_handler is not loop
        assert of_hooks == {in_handler if hooks == "synchronous" else loop}


async def test_teardown_runs_once_after_the_stream_of_a_coroutine_view(app, aio, serve, eventually):
    """after_request runs before a stream, teardown once and after its last chunk."""
    record: list[str] = []

    @app.after_request
    async def after(response):
        record.append("after")
        return response

    @app.teardown_request
    async def teardown(error):
        record.append("teardown")

    @app.teardown_appcontext
    def teardown_app(error):
        if request_paths:
            record.append("teardown app")

    request_paths: list[str] = []

    @app.get("/")
    async def index():
        request_paths.append(request.path)
        for n in range(2):
            await asyncio.sleep(0)
            record.append(f"chunk {n}")
            yield "x"

    client = await serve(app)
    assert await (await client.get("/")).text() == "xx"
    await eventually(lambda: "teardown app" in record)
    assert record == ["after", "chunk 0", "chunk 1", "teardown", "teardown app"]


@pytest.mark.parametrize("view", ["synchronous", "coroutine"])
async def test_asynchronous_error_handler_may_fail_over_to_the_handler_of_500(
    app, aio, serve, caplog, view
):
    """An error in a coroutine error handler is handled like one of the view: by the 500 handler."""

    @app.errorhandler(KeyError)
    async def handle(error):
        await asyncio.sleep(0)
        raise ValueError("in handler")

    @app.errorhandler(500)
    async def broken(error):
        await asyncio.sleep(0)
        return repr(error.original_exception), 500

    def index():
        raise KeyError("hat")

    async def coroutine():
        raise KeyError("hat")

    app.add_url_rule("/", view_func=index if view == "synchronous" else coroutine)
    client = await serve(app)
    response = await client.get("/")
    assert (response.status, await response.text()) == (500, "ValueError('in handler')")
