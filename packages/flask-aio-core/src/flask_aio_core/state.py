"""What the extension keeps for one Flask app, in ``app.extensions``."""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable
from contextvars import Context
from typing import TYPE_CHECKING, Final, TypeVar

from flask import Flask, current_app, has_app_context

from .bridge import close_orphan, current_bridge
from .event_loop import running_loop
from .exceptions import NotInitialized
from .lifecycle import Lifecycle
from .plugins import ServerHooks
from .private_loop import private_runtime, stop_private_runtime
from .views import ViewPlans

if TYPE_CHECKING:
    from .runtime import Runtime

T = TypeVar("T")

KEY: Final = "flask_aio_core"

#: The runtimes of all servers of this process.
_serving: list[Runtime] = []
# Reentrant: a signal handler may need it while the main thread holds it.
_lock = threading.RLock()


class AioState:
    """One app's hooks, view plans and the event loops that serve it."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self.lifecycle = Lifecycle()
        self.plans = ViewPlans()
        self.hooks = ServerHooks()
        self._private: Runtime | None = None

    def serving_runtime(self) -> Runtime | None:
        """Return the runtime of the server that serves the app, if one does."""
        with _lock:
            return next((one for one in reversed(_serving) if one.app is self._app), None)

    def runtime(self) -> Runtime:
        """Return the runtime of the server that serves the app, or a private one if none does."""
        serving = self.serving_runtime()
        if serving is not None:
            return serving
        loop = running_loop()
        if loop is not None:
            with _lock:
                for runtime in _serving:  # The app is mounted in one that is served.
                    if runtime.loop is loop:
                        return runtime
        self._private = private_runtime(self._private, self._app, self.lifecycle)
        return self._private

    def wait(self, awaitable: Awaitable[T], context: Context) -> T:
        """Block the current thread until the app's event loop has run an awaitable."""
        try:
            runtime = self.runtime()
        except BaseException:
            close_orphan(awaitable)
            raise
        return runtime.wait(awaitable, context)

    def stop_private(self) -> None:
        """Let go of what the app has used on the private loop."""
        if self._private is not None:
            private, self._private = self._private, None
            stop_private_runtime(private)


def get_state(app: Flask) -> AioState:
    """Return the state of an app.

    :raises NotInitialized: the app has no extension.
    """
    state = app.extensions.get(KEY)
    if state is None:
        raise NotInitialized(
            f"The Flask app {app.name!r} does not have the extension. Call AioHTTP(app), or"
            " aio.init_app(app) in the factory."
        )
    return state  # type: ignore[no-any-return]


def current_runtime() -> Runtime:
    """Return the runtime that the current code means.

    :raises NotInitialized: it cannot be told which app is meant.
    """
    bridge = current_bridge()
    if bridge is not None and bridge.runtime is not None:
        return bridge.runtime
    if has_app_context():
        return get_state(current_app._get_current_object()).runtime()  # type: ignore[attr-defined]
    with _lock:
        apps = {id(runtime.app) for runtime in _serving}
        if len(apps) == 1:
            return _serving[-1]
    if apps:
        raise NotInitialized(
            "Several apps are being served, and this code belongs to none of them. Push the context"
            " of the app that is meant: 'with app.app_context():'."
        )
    raise NotInitialized(
        "There is no running server and no app context, so there is no event loop to use. Push the"
        " context of the app: 'with app.app_context():'."
    )


def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()  # Another thread may have held it during the fork.


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def add_serving(runtime: Runtime) -> None:
    """Make a runtime known while its server runs."""
    with _lock:
        _serving.append(runtime)


def remove_serving(runtime: Runtime) -> None:
    """Forget a runtime whose server has stopped."""
    with _lock:
        _serving.remove(runtime)
