"""WebSockets by Flask-Sock: a thread, or a greenlet of gevent, for each socket."""

from __future__ import annotations

from typing import Any

from flask_sock import Sock  # type: ignore[import-untyped] # it has no types

from . import content
from .plain_flask import make_app

app = make_app()
app.config["SOCK_SERVER_OPTIONS"] = {
    "ping_interval": content.HEARTBEAT,
    "max_message_size": content.MAX_MESSAGE,
}
sock = Sock(app)
_sockets: set[Any] = set()


@sock.route("/echo")  # type: ignore[untyped-decorator]
def echo(socket: Any) -> None:
    while True:
        socket.send(socket.receive())


@sock.route("/broadcast")  # type: ignore[untyped-decorator]
def broadcast(socket: Any) -> None:
    _sockets.add(socket)
    try:
        while True:
            message = socket.receive()
            for other in list(_sockets):
                other.send(message)
    finally:
        _sockets.discard(socket)
