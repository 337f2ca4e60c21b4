"""``flask aio``: the development server as a command of Flask's own CLI."""

from __future__ import annotations

import ssl
import traceback
from typing import Any, Literal

import click
from flask import Flask
from flask.cli import AppGroup, ScriptInfo, pass_script_info, run_command
from flask.helpers import get_debug_flag
from werkzeug.serving import is_running_from_reloader

from .server import serve
from .serving import ensure_extension

aio_group = AppGroup("aio", help="Serve the app on asyncio, with aiohttp.")

#: The options of "flask run" that mean the same here; they are Flask's own objects.
_OPTIONS = {
    "debug",
    "host",
    "port",
    "cert",
    "key",
    "reload",
    "debugger",
    "extra_files",
    "exclude_patterns",
}


@click.command("run", short_help="Run a development server on asyncio.")
@click.option(
    "--uvloop/--no-uvloop",
    default=None,
    help="Use uvloop or not. By default it is used if it is installed.",
)
@pass_script_info
def aio_run(
    info: ScriptInfo,
    host: str,
    port: int,
    reload: bool | None,
    debugger: bool | None,
    cert: ssl.SSLContext | tuple[str, str | None] | Literal["adhoc"] | None,
    extra_files: list[str] | None,
    exclude_patterns: list[str] | None,
    uvloop: bool | None,
) -> None:
    """Run a local server: coroutine views on one event loop, others in threads.

    The reloader and debugger are enabled by default with the '--debug' option.
    """
    app = _load(info)
    ensure_extension(app)
    debug = get_debug_flag()
    serve(
        app,
        host=host,
        port=port,
        ssl_context=cert,
        use_reloader=debug if reload is None else reload,
        use_debugger=debug if debugger is None else debugger,
        uvloop=uvloop,
        extra_files=extra_files,
        exclude_patterns=exclude_patterns,
        name=info.app_import_path,
    )


def _load(info: ScriptInfo) -> Flask:
    try:
        return info.load_app()
    except Exception as error:
        if not is_running_from_reloader():
            raise
        # A mistake made while the server runs: show it in the browser until it is mended.
        traceback.print_exc()
        return _broken_app(error)


def _broken_app(error: Exception) -> Flask:
    app = Flask("broken")

    def fail(*_: Any) -> Any:
        raise error from None

    app.wsgi_app = fail  # type: ignore[method-assign, assignment]
    return app


aio_run.params[:0] = [param for param in run_command.params if param.name in _OPTIONS]
aio_group.add_command(aio_run)
