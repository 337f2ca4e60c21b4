"""Being told when the connection of a request ends."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web


def watch_connection(request: web.BaseRequest, on_end: Callable[[BaseException], None]) -> None:
    """Call a function when the client goes away or the server gives the request up.

    It is given the reason: :exc:`asyncio.CancelledError` when the server stops and the time for a
    graceful end is over, another exception when the connection was lost.
    """
    cancel = request._cancel

    def cancel_and_tell(reason: BaseException) -> None:
        cancel(reason)
        on_end(reason)

    # aiohttp tells only the request, by this private method, and has no public signal for it. Its
    # handler_cancellation would cancel every view and can only be set by who makes the server. The
    # instance's dictionary is written to directly because aiohttp's debug mode warns of new
    # attributes.
    vars(request)["_cancel"] = cancel_and_tell
