"""Being told when the connection of a request ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aiohttp import web


@contextmanager
def watched_connection(
    request: web.BaseRequest, on_end: Callable[[BaseException], None]
) -> Iterator[None]:
    """Call a function when, during the block, the client goes away or the server gives up.

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
    attributes = vars(request)
    attributes["_cancel"] = cancel_and_tell
    try:
        yield
    finally:
        del attributes["_cancel"]  # It would keep the request alive until the garbage collector.
