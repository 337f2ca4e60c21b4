"""Commands of Flask's CLI, and app contexts of scripts and tests: where they may wait.

No request runs there, so nothing could suspend their code. Commands therefore run on a greenlet, as
the calls of another WSGI server do, and the teardown of an app context does so everywhere. This
takes three public methods, on the instance:

- ``app.cli.get_command`` finds the app's own commands;
- ``app.app_context`` is what :func:`flask.cli.with_appcontext` calls, in the click context of a
  command that the app does not know of (``flask shell``, ``flask db upgrade``), before that context
  invokes it;
- ``app.do_teardown_appcontext`` is called when the command, or a script's ``with`` block, is over.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from copy import copy
from functools import partial, wraps
from typing import Any

import click
from flask import Flask
from flask.ctx import AppContext

from .bridge import can_suspend, suspend
from .state import AioState
from .thread_bridge import ThreadBridge


def install_commands(app: Flask, state: AioState) -> None:
    """Let commands, and the teardown of app contexts, wait for the event loop."""
    run = ThreadBridge(state).run
    make_context = app.app_context
    tear_down = app.do_teardown_appcontext
    find_command = app.cli.get_command

    def run_command(invoke: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return run(partial(_to_the_end, invoke, *args, **kwargs))

    def app_context() -> AppContext:
        if not can_suspend():
            command = click.get_current_context(silent=True)
            if command is not None:
                command.invoke = partial(run_command, command.invoke)  # type: ignore[method-assign]
        return make_context()

    def do_teardown_appcontext(*args: Any, **kwargs: Any) -> None:
        if can_suspend():
            tear_down(*args, **kwargs)
        else:
            run(partial(tear_down, *args, **kwargs))

    def get_command(ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = find_command(ctx, cmd_name)
        if command is not None:
            # A copy: the same command may be registered with another app, too.
            command = copy(command)
            command.invoke = partial(run_command, command.invoke)  # type: ignore[method-assign]
        return command

    app.app_context = wraps(make_context)(app_context)  # type: ignore[method-assign]
    app.do_teardown_appcontext = wraps(tear_down)(  # type: ignore[method-assign]
        do_teardown_appcontext
    )
    app.cli.get_command = get_command  # type: ignore[method-assign]


def _to_the_end(invoke: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Invoke a command; run the coroutine to its end that an ``async def`` command returns."""
    result = invoke(*args, **kwargs)
    return suspend(result) if inspect.iscoroutine(result) else result
