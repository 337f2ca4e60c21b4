"""``aio.run``: serve one app from the current process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click
from flask import Flask, cli
from flask.helpers import get_debug_flag, get_load_dotenv
from werkzeug.serving import is_running_from_reloader

from .access_log import AccessLogger, keep_environ
from .application import unused_application
from .debugger import debugging
from .event_loop import loop_factory
from .http_server import HTTPServer
from .interpreter import tuned_interpreter
from .listener import inherited_socket, listening_socket, share_with_reloader, site_url
from .reloader import run_reloading
from .state import get_state

if TYPE_CHECKING:
    from os import PathLike


#: Seconds that the clean-up hooks of a server in a thread get at least.
_CLEANUP: Final = 4.0


@dataclass(kw_only=True)
class ServerOptions:
    """Where and how to serve, with every default resolved."""

    sock: socket.socket
    ssl_context: ssl.SSLContext | None
    factory: Callable[[], asyncio.AbstractEventLoop]
    access_log: bool
    grace: float


def run_server(
    app: Flask,
    *,
    host: str | None,
    port: int | None,
    debug: bool | None,
    path: str | PathLike[str] | None,
    sock: socket.socket | None,
    ssl_context: ssl.SSLContext | tuple[str, str] | str | None,
    use_reloader: bool | None,
    use_debugger: bool | None,
    uvloop: bool | None,
    access_log: bool,
    load_dotenv: bool,
    extra_files: list[str] | None,
    exclude_patterns: list[str] | None,
    reloader_type: str,
) -> None:
    """Serve an app as :meth:`.AioHTTP.run` documents it."""
    if os.environ.get("FLASK_RUN_FROM_CLI") == "true":
        if not is_running_from_reloader():
            click.secho(
                " * Ignoring a call to aio.run() that would block the current 'flask' command.\n"
                "   Only call aio.run() below 'if __name__ == \"__main__\":'.",
                fg="red",
            )
        return
    if get_load_dotenv(load_dotenv):
        cli.load_dotenv()
        if "FLASK_DEBUG" in os.environ:
            app.debug = get_debug_flag()
    if debug is not None:
        app.debug = bool(debug)
    serve(
        app,
        host=host,
        port=port,
        path=path,
        sock=sock,
        ssl_context=ssl_context,
        use_reloader=app.debug if use_reloader is None else use_reloader,
        use_debugger=app.debug if use_debugger is None else use_debugger,
        uvloop=uvloop,
        access_log=access_log,
        extra_files=extra_files,
        exclude_patterns=exclude_patterns,
        reloader_type=reloader_type,
        name=app.name,
    )


def serve(
    app: Flask,
    *,
    host: str | None,
    port: int | None,
    path: str | PathLike[str] | None = None,
    sock: socket.socket | None = None,
    ssl_context: ssl.SSLContext | tuple[str, str | None] | str | None,
    use_reloader: bool,
    use_debugger: bool,
    uvloop: bool | None = None,
    access_log: bool = True,
    extra_files: list[str] | None,
    exclude_patterns: list[str] | None,
    reloader_type: str = "auto",
    name: str | None,
) -> None:
    """Listen, then serve; the part that ``aio.run`` and ``flask aio run`` have in common."""
    factory = loop_factory(uvloop)
    host, port = _address(app, host, port)
    secure = _ssl_context(ssl_context)
    if use_reloader and is_running_from_reloader():
        sock = inherited_socket()
    else:
        cli.show_server_banner(app.debug, name)
        if sock is None:
            sock = listening_socket(host, port, path)
    options = ServerOptions(
        sock=sock,
        ssl_context=secure,
        factory=factory,
        access_log=access_log,
        grace=app.config["AIO_RELOAD_GRACE" if use_reloader else "AIO_SHUTDOWN_GRACE"],
    )
    with _socket_file_removed(sock, path), debugging(app, host, enabled=use_debugger):
        if use_reloader:
            share_with_reloader(sock)
            _serve_with_reloader(app, options, extra_files, exclude_patterns, reloader_type)
        else:
            _serve_here(app, options)


def _serve_here(app: Flask, options: ServerOptions) -> None:
    stopping = asyncio.Event()
    with (
        contextlib.suppress(KeyboardInterrupt),  # One that came before we listened for it.
        asyncio.Runner(loop_factory=options.factory) as runner,
    ):
        runner.run(_serve(app, options, stopping, handle_signals=True))


def _serve_with_reloader(
    app: Flask,
    options: ServerOptions,
    extra_files: list[str] | None,
    exclude_patterns: list[str] | None,
    reloader_type: str,
) -> None:
    """Serve in a thread while the main thread watches the files, as Werkzeug's reloader wants."""
    server = _ServerThread(app, options)
    run_reloading(
        server.run,
        server.stop,
        extra_files=extra_files,
        exclude_patterns=exclude_patterns,
        reloader_type=reloader_type,
    )


class _ServerThread:
    """A server that another thread can stop."""

    def __init__(self, app: Flask, options: ServerOptions) -> None:
        self._app = app
        self._options = options
        self._stopping = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = threading.Event()

    def run(self) -> None:
        """Serve until stopped."""
        try:
            with asyncio.Runner(loop_factory=self._options.factory) as runner:
                self._loop = runner.get_loop()
                runner.run(_serve(self._app, self._options, self._stopping, handle_signals=False))
        except SystemExit as error:
            # In a thread it would pass silently; the process must end with the status.
            click.echo(error.code if isinstance(error.code, str) else "", err=True, nl=False)
            os._exit(error.code if isinstance(error.code, int) else 1)
        finally:
            self._ended.set()

    def stop(self) -> None:
        """Stop gracefully and wait for the end, within the grace time and a little more.

        That is for clean-up hooks, which would be cut off: a busy machine takes its time.
        """
        loop = self._loop
        if loop is None:
            return
        with contextlib.suppress(RuntimeError):  # It has ended already.
            loop.call_soon_threadsafe(self._stopping.set)
        self._ended.wait(self._options.grace + _CLEANUP)


async def _serve(
    app: Flask, options: ServerOptions, stopping: asyncio.Event, *, handle_signals: bool
) -> None:
    log = _access_log() if options.access_log else None
    logs = log is not None and log.isEnabledFor(logging.INFO)
    on_request = get_state(app).hooks.on_request
    if logs:
        on_request.append(keep_environ)
    server = HTTPServer(
        unused_application(app),
        keepalive=app.config["AIO_KEEPALIVE"],
        access_log=log if logs else None,
        access_log_class=AccessLogger,
        access_log_format=app.config["AIO_ACCESS_LOG_FORMAT"],
    )
    try:
        if handle_signals:
            _stop_on_signals(stopping)
        await server.start()
        with tuned_interpreter(app):
            await server.listen(options.sock, options.ssl_context)
            url = site_url(options.sock, secure=options.ssl_context is not None)
            click.echo(f" * Running on {url} (Press CTRL+C to quit)")
            sys.stdout.flush()
            await stopping.wait()
    finally:
        await server.stop(options.grace)
        if logs:
            on_request.remove(keep_environ)


def _stop_on_signals(stopping: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        stopping.set()
        for number in (signal.SIGINT, signal.SIGTERM):
            # The next one ends the process at once, whatever the app is doing.
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        # Neither Windows nor a thread that is not the main one can; Ctrl-C then cancels the server.
        with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
            loop.add_signal_handler(number, stop)


def _access_log() -> logging.Logger:
    """Return aiohttp's access logger, made visible if the program has not configured logging."""
    log = logging.getLogger("aiohttp.access")
    if log.level == logging.NOTSET:
        log.setLevel(logging.INFO)
    if not log.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
    return log


def _address(app: Flask, host: str | None, port: int | None) -> tuple[str, int]:
    """Return host and port by the rules of Flask.run."""
    name, _, name_port = (app.config.get("SERVER_NAME") or "").partition(":")
    if port is None:
        port = int(name_port or 5000)
    return host or name or "127.0.0.1", int(port)


def _ssl_context(
    given: ssl.SSLContext | tuple[str, str | None] | str | None,
) -> ssl.SSLContext | None:
    if given is None or isinstance(given, ssl.SSLContext):
        return given
    if given == "adhoc":
        from werkzeug.serving import generate_adhoc_ssl_context

        return generate_adhoc_ssl_context()
    if isinstance(given, str):
        raise ValueError(
            f"ssl_context must be an SSLContext, a pair of files, or 'adhoc', not {given!r}."
        )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(given[0], given[1])
    return context


@contextlib.contextmanager
def _socket_file_removed(sock: socket.socket, path: str | PathLike[str] | None) -> Iterator[None]:
    try:
        yield
    finally:
        sock.close()
        if path is not None and not is_running_from_reloader():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
