"""What flask-aio-core calls to add WebSockets to the serving of an app."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any
from weakref import WeakSet

from aiohttp import web
from flask import Flask
from werkzeug.exceptions import NotFound
from werkzeug.routing import MapAdapter, WebsocketMismatch

from flask_aio_core.plugins import ServerHooks

from .config import Options, check, set_defaults
from .connection import (
    EXTENSION,
    WEBSOCKET_KEY,
    WebSocket,
    close_open_sockets,
    has_handshake,
)


def install(app: Flask, hooks: ServerHooks) -> None:
    """Put a WebSocket into the environ of each handshake request, and let any rule serve it."""
    set_defaults(app)
    sockets = app.extensions[EXTENSION] = WeakSet[WebSocket]()

    def inject(request: web.BaseRequest, environ: dict[str, Any]) -> None:
        if "HTTP_UPGRADE" in environ and has_handshake(request):
            environ[WEBSOCKET_KEY] = WebSocket(app, environ, Options().resolve(app))

    hooks.on_check.append(partial(check, app))
    hooks.on_request.append(inject)
    hooks.on_shutdown.append(partial(close_open_sockets, app))
    hooks.on_count_sockets.append(lambda: len(sockets))
    _match_either_kind(app)


def _match_either_kind(app: Flask) -> None:
    """Have the app's URL adapters be of :class:`_EitherKind`."""
    create_plain_adapter = app.create_url_adapter

    def create_url_adapter(*args: Any, **kwargs: Any) -> Any:
        adapter = create_plain_adapter(*args, **kwargs)
        if adapter is not None:
            # A method on the instance would form a cycle, for the garbage collector, per request.
            adapter.__class__ = _either_kind(type(adapter))  # type: ignore[arg-type]
        return adapter

    app.create_url_adapter = create_url_adapter  # type: ignore[method-assign]


class _EitherKind(MapAdapter):
    """Lets a rule with ``websocket=True`` serve other requests, and one without it a handshake.

    Werkzeug answers 400 to both. A path with a rule of each kind gets the one that fits; otherwise
    the view decides, so that ``@app.route("/echo")`` is enough for a WebSocket.
    """

    def match(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().match(*args, **kwargs)
        except (WebsocketMismatch, NotFound) as error:
            # A handshake's path may lack its final slash: the other kind knows of the redirect.
            if isinstance(error, NotFound) and not self.websocket:
                raise
            return super().match(*args, **{**kwargs, "websocket": not self.websocket})


@lru_cache(maxsize=8)
def _either_kind(adapter_class: type[MapAdapter]) -> type[MapAdapter]:
    """Return a class of adapters like those of the app, which may have a class of its own."""
    return type(adapter_class.__name__, (_EitherKind, adapter_class), {})
