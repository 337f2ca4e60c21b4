"""The WebSocket of the current request."""

from __future__ import annotations

from typing import Any

from flask import has_request_context, request
from werkzeug.local import LocalProxy

from flask_aio_core import NoWebSocket

from .connection import WEBSOCKET_KEY


def has_websocket() -> bool:
    """Whether the current request is a WebSocket handshake, or its socket is open."""
    return has_request_context() and request.environ.get(WEBSOCKET_KEY) is not None


def _current() -> Any:
    websocket = request.environ.get(WEBSOCKET_KEY) if has_request_context() else None
    if websocket is None:
        raise NoWebSocket(
            "There is no WebSocket here: ws can be used in a view that is decorated with"
            " @websocket, while it serves a WebSocket client."
        )
    return websocket


#: The WebSocket: aiohttp's own in a coroutine view, a :class:`SyncWebSocket` in a synchronous one.
ws: Any = LocalProxy(_current)
