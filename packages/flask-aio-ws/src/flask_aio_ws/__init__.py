"""WebSockets on Flask routes, for Flask apps that flask-aio-core serves."""

from __future__ import annotations

from .channel import Channel as Channel
from .connection import WebSocket as WebSocket
from .current import has_websocket as has_websocket
from .current import ws as ws
from .exceptions import ConnectionClosed as ConnectionClosed
from .exceptions import WebSocketError as WebSocketError
from .synchronous import SyncWebSocket as SyncWebSocket
from .view import websocket as websocket

__all__ = [
    "Channel",
    "ConnectionClosed",
    "SyncWebSocket",
    "WebSocket",
    "WebSocketError",
    "has_websocket",
    "websocket",
    "ws",
]
