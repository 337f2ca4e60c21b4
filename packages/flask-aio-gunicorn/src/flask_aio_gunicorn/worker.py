"""gunicorn workers that serve a Flask app on an event loop."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import traceback
from functools import partial
from types import FrameType
from typing import Any, Final

from aiohttp import web
from flask import Flask
from gunicorn import sock as gunicorn_sock
from gunicorn import util
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.errors import AppImportError
from gunicorn.glogging import Logger
from gunicorn.workers.base import Worker

from flask_aio_core.serving import (
    HTTPServer,
    ensure_extension,
    hurry,
    loop_factory,
    server_hooks,
    tuned_interpreter,
    unused_application,
)

from .acceptor import Acceptor
from .access_log import AccessLogger, is_wanted
from .connection import ProxiedConnection, WorkerConnection
from .environ import Environ, Limits
from .log_forwarding import forward_logs
from .request_hooks import RequestHooks
from .settings import check_settings
from .stack_dump import disable_stack_dump, enable_stack_dump

#: Seconds between two heartbeats, at most; the master looks once a second.
_HEARTBEAT: Final = 1.0
#: Seconds that idle connections stay open when the worker stops: a client may be sending.
_LINGER: Final = 2.0
#: Seconds of the graceful timeout that are kept for teardown and clean-up: at its end the master
#: kills.
_RESERVE: Final = 2.0


class AioWorker(Worker):
    """Serves the Flask app on asyncio's event loop: ``-k flask_aio_gunicorn.AioWorker``.

    gunicorn makes it, one in each worker process. It gives the app the extension if it has none,
    and refuses settings of gunicorn that it cannot honour.
    """

    _uses_uvloop = False

    wsgi: Any
    sockets: list[Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._exit_code = 0
        self._stop_requested: asyncio.Event | None = None
        self._server: HTTPServer | None = None
        self._environ: Environ | None = None
        self._stop_by = 0.0
        #: Whether each request is logged or counted.
        self.logs_access = False

    @classmethod
    def check_config(cls, cfg: Config, log: Logger) -> None:
        """Refuse settings before the first worker starts; called by the master."""
        check_settings(cfg)
        cls._loop_factory()

    @classmethod
    def _loop_factory(cls) -> Any:
        try:
            return loop_factory(cls._uses_uvloop)
        except ImportError:
            raise RuntimeError(
                f"{cls.__name__} needs uvloop: pip install 'flask-aio-gunicorn[speedups]', or use"
                " AioWorker."
            ) from None

    def load_wsgi(self) -> None:
        """Load the app; with ``--reload`` a mistake is shown to clients until it is mended."""
        try:
            self.wsgi = self._load_app()
        except Exception as error:
            if self.reloader is None:
                raise
            self.log.exception("The app could not be loaded")
            for file in _files_of(error):
                self.reloader.add_extra_file(file)
            self.wsgi = _broken_app(error)

    def _load_app(self) -> Any:
        try:
            return self.app.wsgi()
        except SystemExit as error:
            if not self.alive:  # A signal that stops at once has raised it.
                raise
            # gunicorn would start the next worker, for ever.
            raise AppImportError(f"The app ended the process at import: {error.code!r}") from error

    def run(self) -> None:
        """Serve until the master, or the worker itself, wants an end."""
        # Until the start hooks have run: a worker that fails in them must end the master too.
        self.booted = False
        check_settings(self.cfg)
        app = self._flask_app()
        enable_stack_dump(self.log)
        forward_logs(self.log)
        try:
            with asyncio.Runner(loop_factory=self._loop_factory()) as runner:
                runner.run(self._serve(app))
        except SystemExit:
            if self.booted or not self.alive:
                raise
            self.log.exception("The app ended the process while starting")
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
        sys.exit(self._exit_code)

    def count_request(self) -> None:
        """Count a request; the last one of ``max_requests`` lets the worker be replaced."""
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after %s requests.", self.nr)
            self._stop()

    def handle_usr1(self, sig: int, frame: FrameType | None) -> None:
        """Reopen the log files."""
        disable_stack_dump()
        super().handle_usr1(sig, frame)
        enable_stack_dump(self.log)
        if self._environ is not None:
            self._environ.reopen_errors()

    def handle_abort(self, sig: int, frame: FrameType | None) -> None:
        """End at once: the master has waited in vain for a heartbeat."""
        self.log.critical(
            "The event loop has been blocked for more than %s seconds, in the code whose stack is"
            " above: nobody was served. Wrap blocking functions in flask_aio_core.in_thread, or use"
            " an asynchronous library.",
            self.cfg.timeout,
        )
        self._exit_code = 1
        # Where a view is blocked, the exception below becomes its error, and the loop goes on.
        self._stop(quick=True)
        super().handle_abort(sig, frame)

    async def _serve(self, app: Flask) -> None:
        self._stop_requested = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        loop.add_signal_handler(signal.SIGQUIT, self._stop_quickly)
        loop.add_signal_handler(signal.SIGINT, self._stop_quickly)
        loop.add_signal_handler(signal.SIGUSR1, self.handle_usr1, signal.SIGUSR1, None)
        # gunicorn's reloader writes to it, from its own thread.
        loop.add_reader(self.PIPE[0], self._woken)
        heartbeat = loop.create_task(self._beat())
        server = self._server = self._make_server(app)
        try:
            if await self._started(server):
                assert server.connections is not None
                acceptor = Acceptor(
                    [one.sock for one in self.sockets],
                    server.connections,
                    limit=self.cfg.worker_connections,
                    ssl_context=gunicorn_sock.ssl_context(self.cfg) if self.cfg.is_ssl else None,
                    on_exhausted=partial(self.log.error, "Cannot accept a connection: %s"),
                )
                server.add_listener(acceptor)
                with tuned_interpreter(app):
                    acceptor.start()
                    self.booted = True
                    await self._stop_requested.wait()
        finally:
            grace = self._grace(app)
            self._stop_by = loop.time() + grace
            reserve = min(_RESERVE, grace / 4)
            await server.stop(grace - reserve, linger=min(self.cfg.keepalive, _LINGER))
            heartbeat.cancel()

    async def _started(self, server: HTTPServer) -> bool:
        """Start the server, unless the worker is to stop before the start hooks are done."""
        assert self._stop_requested is not None
        starting = asyncio.create_task(server.start())
        # A hook that exits ends the loop before anybody has looked at the task.
        starting.add_done_callback(_take_exception)
        stopping = asyncio.create_task(self._stop_requested.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not starting.done():
            starting.cancel()
            await asyncio.wait({starting})
            self.booted = True  # It has not failed.
            return False
        starting.result()
        return self.alive

    def _make_server(self, app: Flask) -> HTTPServer:
        cfg = self.cfg
        if cfg.threads > 1:  # 1 is gunicorn's default, with which every other request would wait.
            app.config["AIO_WORKER_THREADS"] = cfg.threads
        self.logs_access = is_wanted(self.log)
        hooks = RequestHooks(self, cfg)
        self._environ = Environ(cfg, keep=self.logs_access or hooks.has_post_request)
        # Before the plugins', so that they see what it has put into the environ.
        server_hooks(app).on_request.insert(0, self._environ.complete)
        application = unused_application(app)
        if not cfg.keepalive:
            application.on_response_prepare.append(_close_connection)
        application.on_cleanup.insert(0, partial(self._limit_background, app))
        proxied = cfg.proxy_protocol != "off"
        return HTTPServer(
            application,
            keepalive=cfg.keepalive,
            connection_class=partial(ProxiedConnection if proxied else WorkerConnection, cfg=cfg),
            wrap=hooks.wrap,
            logger=self.log.error_log,
            access_log=self.log if self.logs_access else None,
            access_log_class=AccessLogger,
            **Limits(cfg).parser_options(),
        )

    def _flask_app(self) -> Flask:
        app = self.wsgi
        if not isinstance(app, Flask):
            hint = (
                "Name the Flask app itself, or use -k aiohttp.worker.GunicornWebWorker."
                if isinstance(app, web.Application)
                else "Put WSGI middleware inside the app: app.wsgi_app = Middleware(app.wsgi_app)."
            )
            # Where gunicorn's command got it from; cfg.wsgi_app is empty if that was an argument.
            name = getattr(self.app, "app_uri", None) or "the app"
            raise AppImportError(
                f"{type(self).__name__} serves a Flask app, but {name!r} is {app!r}. {hint}"
            )
        ensure_extension(app)
        return app

    def _grace(self, app: Flask) -> float:
        grace = float(self.cfg.graceful_timeout)
        if self.cfg.reload:
            # Open streams and sockets would hold up each change of the code.
            grace = min(grace, app.config["AIO_RELOAD_GRACE"])
        return grace

    async def _limit_background(self, app: Flask, _: web.Application) -> None:
        """Give background tasks no more time than is left before the master kills."""
        left = max(0.0, self._stop_by - asyncio.get_running_loop().time())
        app.config["AIO_BACKGROUND_GRACE"] = min(app.config["AIO_BACKGROUND_GRACE"], left)

    async def _beat(self) -> None:
        interval = min(_HEARTBEAT, self.cfg.timeout / 4 or _HEARTBEAT)
        while True:
            self.notify()
            if self.alive and self.ppid != os.getppid():
                self.log.info("Parent changed, shutting down: %s", self)
                self._stop()
            await asyncio.sleep(interval)

    def _woken(self) -> None:
        os.read(self.PIPE[0], 4096)
        if not self.alive:
            self._stop()

    def _stop_quickly(self) -> None:
        self.cfg.worker_int(self)
        self._stop(quick=True)

    def _stop(self, *, quick: bool = False) -> None:
        self.alive = False
        if self._stop_requested is not None:
            self._stop_requested.set()
        if quick and self._server is not None:
            self._server.hurry()
            hurry(self.wsgi)


class AioUVLoopWorker(AioWorker):
    """Serves the Flask app on uvloop's event loop: ``-k flask_aio_gunicorn.AioUVLoopWorker``.

    It needs uvloop, which the extra ``speedups`` installs.
    """

    _uses_uvloop = True


def _take_exception(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()


async def _close_connection(_: web.BaseRequest, response: web.StreamResponse) -> None:
    """Hold no connection after a response, as ``keepalive = 0`` wants it."""
    if response.status != 101:
        response.force_close()
        response.headers["Connection"] = "close"


def _files_of(error: BaseException | None) -> set[str]:
    """Return the files that a mistake may be in: a module that fails is not in ``sys.modules``."""
    files: set[str] = set()
    while error is not None:
        if isinstance(error, SyntaxError) and error.filename is not None:
            files.add(error.filename)
        frames = traceback.walk_tb(error.__traceback__)
        files.update(frame.f_code.co_filename for frame, _ in frames)
        error = error.__cause__ or error.__context__
    return {file for file in files if os.path.isfile(file)}


def _broken_app(error: Exception) -> Flask:
    app = Flask("broken")
    fail = util.make_fail_app("".join(traceback.format_exception(error)))
    app.wsgi_app = fail  # type: ignore[method-assign, assignment]
    return app
