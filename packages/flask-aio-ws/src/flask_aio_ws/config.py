"""The ``AIO_WS_*`` keys of ``app.config``: the defaults of the options of ``@websocket``."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any, Final

from flask import Flask

from flask_aio_core.config import check_number

DEFAULTS: Final[dict[str, Any]] = {
    # Subprotocols that the server speaks; the client's first choice among them is agreed on.
    "AIO_WS_PROTOCOLS": (),
    # Seconds between pings to a silent client, which has half of it to answer; None sends none.
    "AIO_WS_HEARTBEAT": 25.0,
    # Bytes that a message may have; a longer one closes the socket with 1009.
    "AIO_WS_MAX_MESSAGE_SIZE": 16 * 1024 * 1024,
    # Whether messages are compressed if the client can (permessage-deflate).
    "AIO_WS_COMPRESS": True,
    # Seconds that receive() waits before it raises TimeoutError; None waits for ever.
    "AIO_WS_RECEIVE_TIMEOUT": None,
    # Status of the answer to a request that is no WebSocket handshake.
    "AIO_WS_FAILURE_STATUS": 400,
    # Origins that may connect besides the server's own; "*" lets every page connect.
    "AIO_WS_ORIGINS": (),
    # Seconds that the peer gets to answer our close.
    "AIO_WS_CLOSE_TIMEOUT": 10.0,
    # WebSockets of synchronous views at a time: each holds a worker thread.
    "AIO_WS_MAX_SYNCHRONOUS": 16,
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of one WebSocket view; ``...`` stands for the app's configuration."""

    protocols: Collection[str] | Any = ...
    heartbeat: float | Any | None = ...
    max_message_size: int | Any = ...
    compress: bool | Any = ...
    receive_timeout: float | Any | None = ...
    failure_status: int | Any = ...
    origins: Collection[str] | str | Any = ...

    def resolve(self, app: Flask) -> Options:
        """Return the options with what the app's configuration says in place of ``...``."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return Options(
            **{
                name: configured(app, f"AIO_WS_{name.upper()}") if value is ... else value
                for name, value in values.items()
            }
        )


def configured(app: Flask, key: str) -> Any:
    """Return the value of a key, also where nothing has set its default."""
    # Without the plugin, which a list of other plugins has left out, nothing has set the defaults.
    return app.config.get(key, DEFAULTS[key])


def set_defaults(app: Flask) -> None:
    """Give every key that the app has not set its default."""
    for key, value in DEFAULTS.items():
        app.config.setdefault(key, value)


def check(app: Flask) -> None:
    """Refuse numbers that sockets could not be served with.

    :raises ValueError: a key has such a value.
    """
    for key in ("AIO_WS_HEARTBEAT", "AIO_WS_RECEIVE_TIMEOUT"):
        check_number(app, key, optional=True)
    check_number(app, "AIO_WS_CLOSE_TIMEOUT")
    for key in ("AIO_WS_MAX_MESSAGE_SIZE", "AIO_WS_MAX_SYNCHRONOUS"):
        check_number(app, key, whole=True)
    check_number(app, "AIO_WS_FAILURE_STATUS", whole=True, least=400)
