"""One request and its response: the conversation of server and application (PEP 3333).

:meth:`Exchange.run` is synchronous, like WSGI. It runs on a bridge greenlet, of the event loop or
of a worker thread, and waits by :func:`~.bridge.suspend` wherever something has to be sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol

from aiohttp import web

from .body import is_unasked
from .bridge import suspend
from .file_wrapper import FileRange, sendable_file
from .response import ResponseHead, WSGIResponse, set_content_length
from .streams import close_open_streams

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import WSGIApplication

    from .runtime import Runtime

logger = logging.getLogger("flask_aio_core")

#: After how many chunks in a row a stream lets other requests run, if no chunk had to wait.
_FAIR_SHARE: Final = 16
_FILE_PIECE: Final = 256 * 1024


class Caller(Protocol):
    """Who runs an exchange, and how what the application waits for is cancelled."""

    #: Whether the task sends a complete body, because the exchange is in another thread.
    hands_over: bool

    def cancel(self) -> Any:
        """Cancel it, as when the client of a stream has gone."""

    def give_up(self) -> Any:
        """Cancel it because the server stops and cannot wait any longer."""

    def forget_cancel(self) -> None:
        """Do not let a cancellation that has not taken effect hit the cleaning up."""

    def signal(self) -> None:
        """Tell the task that there is a complete body to send."""


class _ClientGone(ConnectionResetError):
    """There is nobody left to send to; it never leaves this module but through ``write``."""


class Exchange:
    """One call of a WSGI application, and the sending of what it returns.

    :param caller: the task or the worker thread that runs the application.
    """

    def __init__(
        self,
        runtime: Runtime,
        request: web.BaseRequest,
        environ: dict[str, Any],
        *,
        caller: Caller,
        cancel_on_disconnect: bool,
    ) -> None:
        self._runtime = runtime
        self._request = request
        self._environ = environ
        self._caller = caller
        self._cancel_on_disconnect = cancel_on_disconnect
        self._head: ResponseHead | None = None
        self._sent = 0
        self._since_pause = 0
        self._streaming = False
        self._closing = False
        #: The response as far as it has been sent.
        self.response: WSGIResponse | None = None
        #: The complete body, when it is left to the task to send it.
        self.whole_body: bytes | None = None
        #: Whether all of the response has been sent.
        self.complete = False
        #: Whether the client has gone.
        self.disconnected = False
        #: Whether an event stream was ended because the server stops.
        self.dismissed = False

    def run(self, app: WSGIApplication) -> None:
        """Call the application, send its response, close its iterable."""
        iterable: Iterable[bytes] = ()
        try:
            iterable = app(self._environ, self.start_response)
            self._transmit(iterable)
        except _ClientGone:
            pass
        finally:
            self._closing = True
            self._caller.forget_cancel()
            self._runtime.event_streams.discard(self)
            try:
                close = getattr(iterable, "close", None)
                if close is not None:
                    close()
            finally:
                close_open_streams(self._environ)

    def start_response(
        self,
        status: str,
        headers: list[tuple[str, str]],
        exc_info: OptExcInfo | None = None,
        /,
    ) -> Callable[[bytes], None]:
        """The callable that the application is given; nothing is sent before its first output."""
        if exc_info is not None:
            try:
                if self.response is not None and exc_info[1] is not None:
                    error: BaseException = exc_info[1]
                    traceback: TracebackType | None = exc_info[2]
                    raise error.with_traceback(traceback)
            finally:
                exc_info = None  # It would form a cycle with this frame.
        elif self._head is not None:
            raise AssertionError(
                "start_response was called twice. A second call is only allowed to report an error,"
                " with exc_info (PEP 3333)."
            )
        self._head = ResponseHead.parse(status, headers)
        return self._write

    def on_connection_end(self, reason: BaseException) -> None:
        """React to the end of the connection; called on the event loop."""
        if isinstance(reason, asyncio.CancelledError):
            self._caller.give_up()
            return
        self.disconnected = True
        if not self._closing and (self._streaming or self._cancel_on_disconnect):
            self._caller.cancel()

    def dismiss(self) -> None:
        """End an event stream early: its client reconnects, to a server that goes on."""
        self.dismissed = True
        if not self._closing:
            self._caller.cancel()

    async def send_whole_body(self, body: bytes) -> None:
        """Send headers and body in one go."""
        head = self._started_head()
        response = self._new_response(head)
        if head.allows_body(self._request.method):
            set_content_length(response, len(body))
        else:
            body = b""
        try:
            await response.prepare(self._request)
            self.response = response
            await response.write_eof(body)
            self.complete = True
        except ConnectionError:
            self.disconnected = True
        self._sent = len(body)

    def _transmit(self, iterable: Iterable[bytes]) -> None:
        file = sendable_file(iterable)
        if file is not None and self._body_is_allowed():
            self._streaming = True
            suspend(self._send_file(file))
            self._end()
            return
        if not isinstance(iterable, (list, tuple)):
            self._begin_stream()
        elif self.response is None and self._finish_list(b"".join(iterable)):
            return
        for chunk in iterable:
            if not chunk:
                continue  # An empty one does not even make the headers leave.
            if not self._body_is_allowed():
                break
            if self.response is None and len(chunk) == self._started_head().content_length:
                # The usual Flask response: one chunk, of the declared length.
                self._finish(chunk)
            elif self.whole_body is None:
                self._write(chunk)
        self._end()

    def _begin_stream(self) -> None:
        self._streaming = True
        if self._head is not None:
            self._note_event_stream(self._head)
        if self.disconnected and not self._cancel_on_disconnect:
            # It went away while the view was running; nobody will tell us again.
            if self._head is not None:
                raise _ClientGone("The client has gone.")
            self._caller.cancel()

    def _note_event_stream(self, head: ResponseHead) -> None:
        if head.content_type == "text/event-stream" and not self._closing:
            self._runtime.event_streams.add(self)

    def _finish_list(self, body: bytes) -> bool:
        """Send a body that was returned whole, unless its length is not the declared one."""
        if self._started_head().content_length not in (None, len(body)):
            return False
        self._finish(body)
        return True

    def _finish(self, body: bytes) -> None:
        """Send a complete body, or have the task send it."""
        self._started_head()
        if self._caller.hands_over:
            self.whole_body = body
            self._caller.signal()
        else:
            suspend(self.send_whole_body(body))

    def _write(self, chunk: bytes) -> None:
        """Send a chunk now and wait while the client is too slow."""
        if not isinstance(chunk, bytes):
            raise TypeError(f"A WSGI application must send bytes, not {type(chunk).__name__}.")
        if self.disconnected or self.dismissed:
            raise _ClientGone("The client has gone.")
        suspend(self._send_chunk(chunk))
        if self.disconnected:
            raise _ClientGone("The client has gone.")

    async def _send_chunk(self, chunk: bytes) -> None:
        try:
            response = await self._prepared_response()
            if self._body_is_allowed():
                await response.write(chunk)
                self._sent += len(chunk)
        except ConnectionError:
            self.disconnected = True
        self._since_pause += 1
        if self._since_pause >= _FAIR_SHARE:
            self._since_pause = 0
            await asyncio.sleep(0)

    async def _send_file(self, file: FileRange) -> None:
        try:
            response = await self._prepared_response()
            response.start_without_body()
            transport = self._request.transport
            if transport is None or transport.is_closing():
                raise ConnectionResetError
            try:
                if file.size == 0 or self._started_head().content_length is None:
                    raise NotImplementedError  # Only aiohttp's writer can mark the end of it.
                sent = await self._runtime.loop.sendfile(
                    transport, file.file, file.offset, file.size
                )
                # aiohttp's writer did not see these bytes; its access log counts them here.
                self._request.writer.output_size += sent
                self._sent += sent
            except NotImplementedError:  # uvloop has no sendfile.
                await self._send_file_in_pieces(response, file)
        except ConnectionError:
            self.disconnected = True

    async def _send_file_in_pieces(self, response: WSGIResponse, file: FileRange) -> None:
        left = file.size
        await asyncio.to_thread(file.file.seek, file.offset)
        while left is None or left > 0:
            size = _FILE_PIECE if left is None else min(_FILE_PIECE, left)
            piece = await asyncio.to_thread(file.file.read, size)
            if not piece:
                return
            await response.write(piece)
            self._sent += len(piece)
            left = None if left is None else left - len(piece)

    async def _prepared_response(self) -> WSGIResponse:
        if self.response is None:
            head = self._started_head()
            response = self._new_response(head)
            await response.prepare(self._request)
            self.response = response
            self._note_event_stream(head)
        return self.response

    def _new_response(self, head: ResponseHead) -> WSGIResponse:
        response = head.response()
        if is_unasked(self._environ["wsgi.input"]):
            response.force_close()
        return response

    def _end(self) -> None:
        """Complete the response after the last chunk."""
        if self.whole_body is not None or self.disconnected:
            return
        head = self._started_head()
        if self.response is None:
            if head.content_length and self._body_is_allowed():
                self._fail_short(head.content_length)
            self._finish(b"")
            return
        declared = head.content_length
        if declared is not None and self._sent < declared and self._body_is_allowed():
            self._fail_short(declared)
        suspend(self._send_eof(self.response))

    async def _send_eof(self, response: WSGIResponse) -> None:
        try:
            await response.write_eof()
            self.complete = True
        except ConnectionError:
            self.disconnected = True

    def _fail_short(self, declared: int) -> None:
        raise RuntimeError(
            f"The application declared a Content-Length of {declared} bytes but sent {self._sent}."
        )

    def _body_is_allowed(self) -> bool:
        return self._started_head().allows_body(self._request.method)

    def _started_head(self) -> ResponseHead:
        if self._head is None:
            raise AssertionError(
                "The application sent a body before it had called start_response (PEP 3333)."
            )
        return self._head
