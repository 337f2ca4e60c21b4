"""How another package serves an app with a server of its own: flask-aio-gunicorn is one.

Such a server gives the app the extension if it has none, adds to :func:`server_hooks`, and runs an
:class:`HTTPServer` with the :func:`unused_application` of the app on a loop of a
:func:`loop_factory`.
"""

from __future__ import annotations

from flask import Flask

from .application import unused_application as unused_application
from .connection import Connection as Connection
from .connection import plain_response as plain_response
from .environ import build_environ as build_environ
from .event_loop import loop_factory as loop_factory
from .extension import AioHTTP
from .handler import Handler as Handler
from .http_server import Connections as Connections
from .http_server import HTTPServer as HTTPServer
from .interpreter import tuned_interpreter as tuned_interpreter
from .plugins import ServerHooks
from .response import WSGIResponse as WSGIResponse
from .state import KEY, get_state

__all__ = [
    "Connection",
    "Connections",
    "HTTPServer",
    "Handler",
    "WSGIResponse",
    "build_environ",
    "ensure_extension",
    "hurry",
    "loop_factory",
    "plain_response",
    "server_hooks",
    "tuned_interpreter",
    "unused_application",
]


def ensure_extension(app: Flask) -> None:
    """Give an app the extension, if it does not have it already."""
    if KEY not in app.extensions:
        AioHTTP(app)


def hurry(app: Flask) -> None:
    """Have the server of an app, if one runs, not wait for background tasks when it stops."""
    runtime = get_state(app).serving_runtime()
    if runtime is not None:
        runtime.hurry()


def server_hooks(app: Flask) -> ServerHooks:
    """Return where the server of an app takes part in its serving.

    :raises NotInitialized: the app has no extension.
    """
    return get_state(app).hooks
