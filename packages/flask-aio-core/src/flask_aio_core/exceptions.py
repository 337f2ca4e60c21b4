"""Errors that tell a user of the extension what to change.

All of them are programming errors, so they derive from :exc:`RuntimeError`::

    AioError
    ├── CannotSuspend      waiting was asked for in a coroutine that cannot be suspended
    ├── NotInitialized     the Flask app has no AioHTTP extension, or several have one
    ├── NotServing         there is no event loop to run on, or it has ended
    ├── PatchedByGevent    gevent has replaced the standard library's blocking functions
    └── NoWebSocket        ``aio.ws`` was used where there is no WebSocket
"""

from __future__ import annotations


class AioError(RuntimeError):
    """Base of all errors raised by the extension itself.

    It is raised itself when an app gets the extension twice, and for a coroutine that was awaited
    before.
    """


class CannotSuspend(AioError):
    """Synchronous code asked to wait inside a coroutine that runs as a task of its own.

    Only the code of a request, of :meth:`.AioHTTP.spawn` and of the start and clean-up hooks runs
    on a greenlet that can be suspended; a task of ``asyncio.create_task`` or ``gather`` does not.
    Use ``await`` there, and ``await asyncio.to_thread(...)`` for blocking functions.
    """


class NotInitialized(AioError):
    """No app, or more than one app, could be meant.

    Call ``AioHTTP(app)`` or ``aio.init_app(app)``; outside of a request push the context of the app
    that is meant, by ``with app.app_context():``.
    """


class NotServing(AioError):
    """There is no event loop to do this on any more: the server has stopped."""


class PatchedByGevent(AioError):
    """The process was patched by gevent, whose loop and asyncio's exclude each other.

    Remove ``gevent.monkey.patch_all()``, or serve the app without this extension.
    """


class NoWebSocket(AioError):
    """The current request carries no WebSocket, or there is no request.

    A view has one under ``@websocket``, while it serves a WebSocket client.
    """
