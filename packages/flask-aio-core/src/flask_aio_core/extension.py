"""The Flask extension."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import aiohttp
from flask import Flask, current_app, has_app_context, has_request_context, request

from .application import build_application
from .bridge import can_suspend, close_orphan, current_context, suspend
from .commands import install_commands
from .config import set_defaults
from .elsewhere import Elsewhere
from .event_loop import running_loop
from .exceptions import AioError, CannotSuspend, NotInitialized, NoWebSocket
from .flask_hooks import install_hooks
from .gauges import Gauges, read_gauges
from .gevent import refuse_gevent
from .plugins import Plugin, installed_plugins
from .request_id import current_request_id
from .runtime import Runtime
from .server import run_server
from .state import KEY, AioState, current_runtime, get_state
from .thread_bridge import ThreadBridge

if TYPE_CHECKING:
    import asyncio
    import socket
    import ssl
    from os import PathLike

H = TypeVar("H", bound=Callable[..., Any])
P = ParamSpec("P")
T = TypeVar("T")


class AioHTTP:
    """Serves a Flask app on aiohttp's event loop.

    ``AioHTTP(app)`` or, in a factory, ``aio = AioHTTP()`` and ``aio.init_app(app)``. Afterwards
    ``app.aiohttp_app`` is the :class:`aiohttp.web.Application` that serves the app.

    :param app: the Flask app, if it exists already.
    :param plugins: what to add to the server; default are the plugins of all installed packages.
    """

    def __init__(
        self, app: Flask | None = None, *, plugins: Iterable[Plugin] | None = None
    ) -> None:
        self._plugins = None if plugins is None else list(plugins)
        self._apps: weakref.WeakSet[Flask] = weakref.WeakSet()
        self._hooks: list[tuple[str, Callable[..., Any]]] = []
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Add the extension to an app.

        :raises AioError: the app has it already.
        :raises PatchedByGevent: the process was patched by gevent.
        """
        if not isinstance(app, Flask):
            raise TypeError(f"AioHTTP needs a Flask app, not {app!r}.")
        if KEY in app.extensions:
            raise AioError(
                f"The Flask app {app.name!r} already has the extension. Make one AioHTTP object per"
                " app, and call init_app once."
            )
        refuse_gevent()
        set_defaults(app)
        state = app.extensions[KEY] = AioState(app)
        for kind, hook in self._hooks:
            getattr(state.lifecycle, kind).append(hook)
        self._apps.add(app)
        install_hooks(app, state)
        install_commands(app, state)
        for plugin in installed_plugins() if self._plugins is None else self._plugins:
            plugin(app, state.hooks)
        app.wsgi_app = Elsewhere(app.wsgi_app, state)  # type: ignore[method-assign]
        app.aiohttp_app = build_application(app)  # type: ignore[attr-defined]

    def run(
        self,
        app: Flask | None = None,
        *,
        host: str | None = None,
        port: int | None = None,
        debug: bool | None = None,
        path: str | PathLike[str] | None = None,
        sock: socket.socket | None = None,
        ssl_context: ssl.SSLContext | tuple[str, str] | str | None = None,
        use_reloader: bool | None = None,
        use_debugger: bool | None = None,
        uvloop: bool | None = None,
        access_log: bool = True,
        load_dotenv: bool = True,
        extra_files: list[str] | None = None,
        exclude_patterns: list[str] | None = None,
        reloader_type: str = "auto",
    ) -> None:
        """Serve the app until Ctrl-C or SIGTERM, then stop gracefully.

        Host, port and debug follow the rules of :meth:`flask.Flask.run`.

        :param app: the app; not needed if the extension has been added to just one.
        :param host: the address to listen on; default is ``SERVER_NAME``'s, or 127.0.0.1.
        :param port: the port; default is ``SERVER_NAME``'s, or 5000. 0 lets the system choose.
        :param debug: switch the app's debug mode on or off.
        :param path: listen on a unix socket at this path instead.
        :param sock: listen on this bound socket instead.
        :param ssl_context: a context, a pair of certificate and key file, or ``"adhoc"``.
        :param use_reloader: restart when a file changes; default is the debug mode.
        :param use_debugger: show Werkzeug's debugger for errors; default is the debug mode.
        :param uvloop: default is to use uvloop if it is installed.
        :param access_log: log requests to the logger ``aiohttp.access``.
        :param load_dotenv: read ``.env`` and ``.flaskenv`` files, as ``flask run`` does.
        :param extra_files: more files that the reloader watches.
        :param exclude_patterns: files that it does not watch.
        :param reloader_type: Werkzeug's ``"stat"`` or ``"watchdog"``; default is what is installed.
        :raises NotInitialized: the app does not have the extension.
        :raises SystemExit: the address cannot be listened on; the reason was printed.
        """
        if app is None:
            app = self._only_app()
        get_state(app)
        run_server(
            app,
            host=host,
            port=port,
            debug=debug,
            path=path,
            sock=sock,
            ssl_context=ssl_context,
            use_reloader=use_reloader,
            use_debugger=use_debugger,
            uvloop=uvloop,
            access_log=access_log,
            load_dotenv=load_dotenv,
            extra_files=extra_files,
            exclude_patterns=exclude_patterns,
            reloader_type=reloader_type,
        )

    @property
    def client(self) -> aiohttp.ClientSession:
        """The process's shared HTTP client: made when first used, closed when the server stops.

        It keeps no cookies, since all users' requests share it.
        """
        return _on_loop(self._runtime(), lambda runtime: runtime.client())

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T | None]:
        """Run a coroutine in the background, inside the app context, and return its task at once.

        It outlives the request. An error is logged. When the server stops it has
        ``AIO_BACKGROUND_GRACE`` seconds to end, then it is cancelled.

        :raises TypeError: the argument is not a coroutine.
        """
        if not inspect.iscoroutine(coroutine):
            raise TypeError(
                f"aio.spawn needs a coroutine, not {coroutine!r}. Call the coroutine function:"
                " aio.spawn(work())."
            )
        try:
            runtime = self._runtime()
        except AioError:
            close_orphan(coroutine)
            raise
        return _on_loop(runtime, lambda runtime: runtime.spawn(coroutine))

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in the app context, where synchronous code may wait; return its result.

        It is for scripts and tests, which run outside of any request, hook and command: there
        SQLAlchemy's asyncio drivers raise ``MissingGreenlet``, as in ``db.create_all()``, and
        ``aio.call(db.create_all)`` works. An app context that is current already is used, otherwise
        one is made for the call. Without a server the function waits for the private event loop,
        whose pools of connections no other loop can use: dispose of them before a server starts.

        :param function: a function, or a coroutine function.
        :raises CannotSuspend: the call comes from an asyncio task that it would block; use
            ``await asyncio.to_thread(aio.call, function)`` there.
        :raises NotInitialized: it cannot be told which app is meant.
        """
        app = current_app._get_current_object() if has_app_context() else self._only_app()  # type: ignore[attr-defined]
        state = get_state(app)
        if not can_suspend() and running_loop() is not None:
            raise CannotSuspend(
                "aio.call was called in an asyncio task that it would block. Call it in a thread:"
                " 'await asyncio.to_thread(aio.call, function)'."
            )

        def in_context() -> T:
            if has_app_context():
                return app.ensure_sync(function)(*args, **kwargs)  # type: ignore[no-any-return]
            with app.app_context():
                return app.ensure_sync(function)(*args, **kwargs)  # type: ignore[no-any-return]

        return ThreadBridge(state).run(in_context)

    @property
    def request_id(self) -> str | None:
        """The id of the request that the current code works for, wherever that code runs.

        ``None`` outside of a request, and unless ``AIO_REQUEST_ID`` is set.
        """
        return current_request_id()

    def gauges(self, app: Flask | None = None) -> Gauges:
        """Return what the server of the app is doing in this process now; from any thread.

        All is 0 while the app is not served. The first call begins to measure the loop's lag.

        :param app: the app; not needed if the extension has been added to just one.
        :raises NotInitialized: it cannot be told which app is meant.
        """
        return read_gauges(self._only_app() if app is None else app)

    @property
    def ws(self) -> Any:
        """The WebSocket of the current request.

        :raises NoWebSocket: there is none.
        """
        websocket = request.environ.get("wsgi.websocket") if has_request_context() else None
        if websocket is None:
            raise NoWebSocket(
                "There is no WebSocket here. aio.ws can be used in a view that is decorated with"
                " @websocket from the package flask-aio-ws (pip install flask-aio-ws), while it"
                " serves a WebSocket client."
            )
        return websocket

    def cleanup_ctx(self, function: H) -> H:
        """Register an async generator that runs to its ``yield`` at start, and on when stopping.

        It may take the app as its parameter. It runs on the server's loop, inside the app context.
        """
        return self._register("cleanup_ctx", function)

    def on_startup(self, function: H) -> H:
        """Register a function or coroutine function to call when the server starts.

        It is called after the cleanup contexts were entered, before the first request.
        """
        return self._register("on_startup", function)

    def on_cleanup(self, function: H) -> H:
        """Register a function or coroutine function to call when the server stops.

        It is called after the last request, before the cleanup contexts are left.
        """
        return self._register("on_cleanup", function)

    def close(self) -> None:
        """Run the clean-up hooks of apps that were used without a server, as in tests.

        It happens by itself when the process ends.
        """
        for app in list(self._apps):
            get_state(app).stop_private()

    def _register(self, kind: str, hook: H) -> H:
        if not callable(hook):
            raise TypeError(f"aio.{kind} decorates a function, not {hook!r}.")
        self._hooks.append((kind, hook))
        for app in self._apps:
            getattr(get_state(app).lifecycle, kind).append(hook)
        return hook

    def _runtime(self) -> Runtime:
        if not has_app_context() and not can_suspend() and len(self._apps) == 1:
            return get_state(self._only_app()).serving_runtime() or current_runtime()
        return current_runtime()

    def _only_app(self) -> Flask:
        apps = list(self._apps)
        if len(apps) == 1:
            return apps[0]
        if has_app_context():
            return current_app._get_current_object()  # type: ignore[attr-defined, no-any-return]
        raise NotInitialized(
            "AioHTTP was not given a Flask app: pass it, as in aio.run(app), or make the extension"
            " with it, AioHTTP(app)."
            if not apps
            else "This AioHTTP has several apps: say which one is meant, as in aio.run(app)."
        )


def _on_loop(runtime: Runtime, function: Callable[[Runtime], T]) -> T:
    """Call a function in the thread of the runtime's event loop, and return its result."""
    if running_loop() is runtime.loop:
        return function(runtime)

    async def call() -> T:
        return function(runtime)

    if can_suspend():
        return suspend(call())
    return runtime.wait(call(), current_context())
