"""How another package adds to the server: flask-aio-ws is one.

A plugin is a callable that is given the Flask app and the :class:`ServerHooks` of its server, once,
when the extension is initialised. An installed package announces its plugin as an entry point of
the group :data:`GROUP`, so that installing it is all it takes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.metadata import entry_points
from typing import Any, Final

from aiohttp import web
from flask import Flask

__all__ = ["GROUP", "RESPONSE_KEY", "Plugin", "ServerHooks", "is_stopping"]

#: The group of entry points by which an installed package announces its plugin.
GROUP: Final = "flask_aio_core.plugins"

#: The environ key under which a view leaves the prepared aiohttp response with which it has taken
#: over the connection; what the WSGI call returns is then closed unread.
RESPONSE_KEY: Final = "aiohttp.response"

#: The environ key of the side that a request runs on: ``loop`` or ``thread``.
SIDE_KEY: Final = "flask_aio.side"

#: The environ key of the request's id, if ``AIO_REQUEST_ID`` wants it to have one.
REQUEST_ID_KEY: Final = "flask_aio.request_id"


class ServerHooks:
    """Where a plugin takes part in the serving of one app.

    Each attribute is a list that a plugin appends its functions to; they are called in that order.
    """

    def __init__(self) -> None:
        #: Called when its server starts, to refuse by a ValueError what the app is configured with.
        self.on_check: list[Callable[[], None]] = []
        #: Called for each request, on the event loop, with the environ that can still be added to.
        self.on_request: list[Callable[[web.BaseRequest, dict[str, Any]], None]] = []
        #: Awaited on the event loop when its server begins to stop, before requests are waited for.
        self.on_shutdown: list[Callable[[], Awaitable[None]]] = []
        #: Called, in any thread, for the number of WebSockets of the app that are open.
        self.on_count_sockets: list[Callable[[], int]] = []


def is_stopping() -> bool:
    """Whether the server of the current request has begun to stop.

    :raises NotInitialized: there is no request, and it cannot be told which app is meant.
    """
    from .state import current_runtime

    return current_runtime().stopping


#: The type of a plugin.
Plugin = Callable[[Flask, ServerHooks], None]


def installed_plugins() -> list[Plugin]:
    """Return the plugins of all installed packages."""
    return [entry_point.load() for entry_point in entry_points(group=GROUP)]
