"""One client's connection, and being told when it ends while a request is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMethod, HttpProcessingError, LineTooLong


class Connection(web.RequestHandler):
    """One client's connection: aiohttp's, which also tells a request that is not valid why."""

    __slots__ = ("environ",)

    def __init__(
        self, manager: web.Server, *, loop: asyncio.AbstractEventLoop, **options: Any
    ) -> None:
        super().__init__(manager, loop=loop, **options)
        #: What the environs of all its requests have in common, from the first one on.
        self.environ: dict[str, Any] | None = None

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a request: none is being answered, none has arrived.

        aiohttp keeps this in a private attribute and offers no other way to close the idle
        connections only; its own ``close`` also throws away the rest of a body that is arriving.
        """
        return self._waiter is not None and not self._waiter.done()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a request that could not be read, with a log line instead of a traceback."""
        if not isinstance(exc, HttpProcessingError) or request.writer.output_size > 0:
            return super().handle_error(request, status, exc, message)
        answer, reason = self._explain(exc)
        # What is not HTTP at all comes from port scanners, many times a day.
        log = self.logger.debug if isinstance(exc, BadHttpMethod) else self.logger.warning
        log("Invalid request from %s: %s", request.remote or "a unix socket", reason)
        return plain_response(answer, reason)

    def _explain(self, error: HttpProcessingError) -> tuple[HTTPStatus, str]:
        """Return the status for what is wrong with a request's head, and a sentence about it."""
        if isinstance(error, LineTooLong) and str(error.args[1]) == str(self.max_line_size):
            return (
                HTTPStatus.REQUEST_URI_TOO_LONG,
                f"The request line is longer than {self.max_line_size} bytes.",
            )
        if isinstance(error, LineTooLong):
            return (
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"A header field is longer than {self.max_field_size} bytes.",
            )
        if "Too many headers" in str(error.message):
            return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "There are too many header fields."
        return HTTPStatus.BAD_REQUEST, str(error.message).partition("\n")[0].rstrip(":")


def plain_response(status: HTTPStatus, reason: str) -> web.Response:
    """Return an error response in plain text, after which the connection is closed."""
    response = web.Response(status=status, text=f"{status.value} {status.phrase}: {reason}\n")
    response.force_close()
    return response


class ConnectionWatch:
    """Calls a function when the client of a request goes away or the server gives up.

    It is given the reason: :exc:`asyncio.CancelledError` when the server stops and the time for a
    graceful end is over, another exception when the connection was lost. End it by :meth:`stop`.
    """

    __slots__ = ("_attributes", "_cancel", "_on_end")

    def __init__(self, request: web.BaseRequest, on_end: Callable[[BaseException], None]) -> None:
        # aiohttp tells only the request, by this private method, and has no public signal for it.
        # Its handler_cancellation would cancel every view and can only be set by who makes the
        # server. The instance's dictionary is written to directly because aiohttp's debug mode
        # warns of new attributes.
        self._cancel = request._cancel
        self._on_end = on_end
        self._attributes = vars(request)
        self._attributes["_cancel"] = self._tell

    def stop(self) -> None:
        """Tell no more; it would keep the request alive until the garbage collector comes."""
        del self._attributes["_cancel"]

    def _tell(self, reason: BaseException) -> None:
        self._cancel(reason)
        self._on_end(reason)
