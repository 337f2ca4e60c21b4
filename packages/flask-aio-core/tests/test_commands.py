"""Commands of Flask's CLI and ``aio.call``: places where SQLAlchemy's asyncio drivers may wait."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Awaitable
from typing import Any

import click
import pytest
from flask import Blueprint, Flask, current_app, g
from flask.cli import AppGroup, FlaskGroup, with_appcontext
from greenlet import getcurrent

from flask_aio_core import AioHTTP, CannotSuspend, NotInitialized, await_


def wait(awaitable: Awaitable[Any]) -> Any:
    """Wait as SQLAlchemy's drivers do; like them, fail where that is not possible."""
    current = getcurrent()
    if not getattr(current, "__sqlalchemy_greenlet_provider__", False):
        awaitable.close()  # type: ignore[attr-defined]
        raise LookupError("MissingGreenlet")
    return current.parent.switch(awaitable)  # type: ignore[union-attr]


def query() -> str:
    return str(wait(asyncio.sleep(0, current_app.name)))


def run(app: Flask, *arguments: str, cli: click.Command | None = None) -> str:
    """Run a command; return what it has printed."""
    result = app.test_cli_runner().invoke(cli, args=arguments)
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.fixture(autouse=True)
def _no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Flask's command set what it sets for its process until the end of the test only."""
    monkeypatch.setenv("FLASK_RUN_FROM_CLI", "false")


@pytest.fixture
def log(app: Flask, aio: AioHTTP) -> list[str]:
    """Have every teardown of an app context query, and note that it has."""
    log: list[str] = []
    aio.call(query)  # The start hooks of the private loop have an app context of their own.

    @app.teardown_appcontext
    def teardown(_: BaseException | None) -> None:
        log.append(query())

    return log


def test_command_of_the_app_waits(app, aio, log):
    """A synchronous command of app.cli waits, and so does the teardown of its app context."""

    @app.cli.command("greet")
    @click.argument("word")
    def greet(word: str) -> None:
        click.echo(f"{word} {query()}")

    assert run(app, "greet", "hello") == "hello shop\n"
    assert log == ["shop"]


def test_command_of_a_group_and_of_a_blueprint_waits(app, aio, log):
    """Nested commands and those of blueprints run like the app's own."""
    group = AppGroup("user")
    blueprint = Blueprint("stock", __name__)

    @group.command("create")
    def create() -> None:
        click.echo("user " + query())

    @blueprint.cli.command("count")
    def count() -> None:
        click.echo("stock " + query())

    app.cli.add_command(group)
    app.register_blueprint(blueprint)
    assert run(app, "user", "create") == "user shop\n"
    assert run(app, "stock", "count") == "stock shop\n"


def test_command_of_an_extension_waits(app, aio, log):
    """A command that the app does not know of waits by flask.cli.with_appcontext."""

    @click.group()
    def db() -> None:
        pass

    @db.command()
    @click.option("--name", default="?")
    @with_appcontext
    def upgrade(name: str) -> None:
        click.echo(f"{name} {query()}")

    cli = FlaskGroup(create_app=lambda: app)
    cli.add_command(db)
    assert run(app, "db", "upgrade", "--name", "one", cli=cli) == "one shop\n"
    assert run(app, cli=upgrade) == "? shop\n"
    assert log == ["shop", "shop"]


def test_command_of_the_app_waits_under_flasks_own_group(app, aio, log):
    """The flask command pushes the app context before it looks a command up."""

    @app.cli.command("greet")
    def greet() -> None:
        click.echo(query())

    cli = FlaskGroup(create_app=lambda: app)
    assert run(app, "greet", cli=cli) == "shop\n"
    assert log == ["shop"]
    assert "greet" in run(app, "--help", cli=cli)


def test_async_command_is_awaited(app, aio, log):
    """A command may be an async def function; it waits either way."""

    @app.cli.command("greet")
    async def greet() -> None:
        await asyncio.sleep(0)
        click.echo(query())

    @click.command()
    @with_appcontext
    async def extension() -> None:
        await asyncio.sleep(0)
        click.echo(query())

    assert run(app, "greet") == "shop\n"
    assert run(app, cli=extension) == "shop\n"


def test_error_and_exit_status_of_a_command_are_kept(app, aio, log):
    """Errors, usage errors and ctx.exit pass the bridge."""

    @app.cli.command("fail")
    @click.argument("how")
    @click.pass_context
    def fail(ctx: click.Context, how: str) -> None:
        query()
        if how == "exit":
            ctx.exit(3)
        if how == "usage":
            raise click.UsageError("not so")
        raise LookupError("gone")

    runner = app.test_cli_runner()
    assert runner.invoke(args=["fail", "exit"]).exit_code == 3
    usage = runner.invoke(args=["fail", "usage"])
    assert (usage.exit_code, "Error: not so" in usage.output) == (2, True)
    assert isinstance(runner.invoke(args=["fail", "error"]).exception, LookupError)
    assert log == ["shop"] * 3


def test_command_may_run_a_loop_of_its_own(app, aio):
    """asyncio.run in a command runs in the command's thread, as it does without the extension."""

    @app.cli.command("greet", with_appcontext=False)
    def greet() -> None:
        async def main() -> str:
            return await asyncio.sleep(0, threading.current_thread().name)

        click.echo(asyncio.run(main()))

    assert run(app, "greet") == threading.current_thread().name + "\n"


def test_command_of_two_apps_runs_with_each(aio, app):
    """A command that a factory registers with every app keeps no app alive, and stays as it is."""

    @click.command("greet")
    @with_appcontext
    def greet() -> None:
        click.echo(query())

    other = Flask("other")
    AioHTTP(other)
    for one in (app, other, app):
        one.cli.add_command(greet)
        assert run(one, "greet") == f"{one.name}\n"
    assert "invoke" not in vars(greet)


def test_command_with_an_app_that_lacks_the_extension_is_untouched():
    """Nothing of click or Flask is changed for other apps of the process."""
    app = Flask("plain")

    @app.cli.command("greet")
    def greet() -> None:
        query()

    with pytest.raises(LookupError, match="MissingGreenlet"):
        run(app, "greet")


# --- aio.call


def test_call_waits_in_the_app_context(app, aio, log):
    """A script calls a function by aio.call: it may wait, and so may the teardown after it."""
    assert aio.call(query) == "shop"
    assert log == ["shop"]
    assert aio.call(lambda *words, end: (*words, end), "a", "b", end="c") == ("a", "b", "c")


def test_call_uses_the_current_app_context(app, aio, log):
    """In a with block of the script the function sees the block's g, which stays."""

    def remember() -> None:
        g.name = query()

    with app.app_context():
        aio.call(remember)
        assert g.name == "shop"
        assert log == []
    assert log == ["shop"]


def test_call_runs_a_coroutine_function(app, aio):
    """An async def function is run to its end."""

    async def fetch(word: str) -> str:
        await asyncio.sleep(0)
        return f"{word} {query()}"

    assert aio.call(fetch, "hello") == "hello shop"


def test_call_raises_the_functions_error_and_runs_the_teardown(app, aio, log):
    """An error reaches the caller; the app context is left all the same."""

    def fail() -> None:
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        aio.call(fail)
    assert log == ["shop"]


def test_call_in_a_request_context_of_a_test(app, aio, log):
    """The context of Flask's test_request_context serves as well, teardown included."""
    with app.test_request_context("/"):
        assert aio.call(query) == "shop"
    assert log == ["shop"]


async def test_call_in_a_task_is_refused(app, aio):
    """It would block the loop; the error says what to do, and that works."""
    with pytest.raises(CannotSuspend, match=r"asyncio\.to_thread"):
        aio.call(query)
    assert await asyncio.to_thread(aio.call, query) == "shop"


async def test_call_uses_the_loop_of_the_running_server(app, aio, serve):
    """While a server runs, what is called from a thread waits for the server's loop."""
    await serve(app)
    loops = []

    async def look() -> None:
        loops.append(asyncio.get_running_loop())

    await asyncio.to_thread(aio.call, lambda: wait(look()))
    assert loops == [asyncio.get_running_loop()]


async def test_call_in_a_view_just_calls(app, aio, serve):
    """A function that a view and a script share may use it in both."""

    @app.get("/coroutine")
    async def coroutine():
        return aio.call(query)

    @app.get("/synchronous")
    def synchronous():
        return aio.call(query)

    client = await serve(app)
    for path in ("/coroutine", "/synchronous"):
        assert await (await client.get(path)).text() == "shop"


def test_call_of_an_extension_with_several_apps_asks_which():
    """With two apps, one must be current."""
    aio, one, two = AioHTTP(), Flask("one"), Flask("two")
    aio.init_app(one)
    aio.init_app(two)
    with pytest.raises(NotInitialized):
        aio.call(query)
    with two.app_context():
        assert aio.call(query) == "two"


def test_await_works_in_what_is_called(app, aio):
    """await_ and the drivers may be mixed."""
    assert aio.call(lambda: await_(asyncio.sleep(0, query()))) == "shop"


def test_call_leaves_nothing_behind(app, aio):
    """Contexts of calls are not kept."""
    aio.call(query)
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(50):
        aio.call(query)
    gc.collect()
    assert len(gc.get_objects()) < before + 50
