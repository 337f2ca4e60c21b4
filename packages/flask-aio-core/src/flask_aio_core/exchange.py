"""One request and its response: the conversation of server and application (PEP 3333).

:meth:`Exchange.run` is synchronous, like WSGI. It runs on a bridge greenlet, of the event loop or
of a worker thread, and waits by :func:`~.bridge.suspend` wherever something has to be sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol

from aiohttp import web

from .bridge import suspend
from .file_wrapper import sendable_file
from .plugins import RESPONSE_KEY
from .response import ResponseHead
from .streams import close_response
from .transmission import Transmission

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import WSGIApplication

    from .runtime import Runtime


#: Seconds after the loss of a connection that was taken over until its view is cancelled.
_MOMENT: Final = 1.0


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
        self._method = request.method
        self._environ = environ
        self._caller = caller
        self._cancel_on_disconnect = cancel_on_disconnect
        self._head: ResponseHead | None = None
        self._streaming = False
        self._closing = False
        self.transmission = Transmission(runtime, request, environ)
        #: The complete body, when it is left to the task to send it.
        self.whole_body: bytes | None = None
        #: Whether an event stream was ended because the server stops.
        self.dismissed = False

    @property
    def was_stopped(self) -> bool:
        """Whether it was cut short because nobody needs the rest: that is no error."""
        return self.transmission.disconnected or self.dismissed

    @property
    def taken_over(self) -> web.StreamResponse | None:
        """The response with which the view has taken over the connection, if it has."""
        return self._environ.get(RESPONSE_KEY)

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
            if self._streaming:
                self._runtime.streams.discard(self)
            close_response(iterable, self._environ)

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
                if self.transmission.response is not None and exc_info[1] is not None:
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
        self._head = ResponseHead(status, headers)
        return self._write

    async def send_whole_body(self) -> None:
        """Send what was left to the task to send."""
        assert self.whole_body is not None
        await self.transmission.send_whole(self._started_head(), self.whole_body)

    def on_connection_end(self, reason: BaseException) -> None:
        """React to the end of the connection; called on the event loop."""
        if isinstance(reason, asyncio.CancelledError):
            self._caller.give_up()
            return
        self.transmission.disconnected = True
        if self._is_taken_over():
            # Whoever reads from it is told by it; a view that does not is cancelled a little later.
            self._runtime.loop.call_later(_MOMENT, self._cancel_unless_closing)
        elif not self._closing and (self._streaming or self._cancel_on_disconnect):
            self._caller.cancel()

    def _is_taken_over(self) -> bool:
        return RESPONSE_KEY in self._environ

    def _cancel_unless_closing(self) -> None:
        if not self._closing:
            self._caller.cancel()

    def dismiss(self) -> None:
        """End an event stream early: its client reconnects, to a server that goes on."""
        if self.dismissed:
            return
        self.dismissed = True
        if not self._closing:
            self._caller.cancel()

    def _transmit(self, iterable: Iterable[bytes]) -> None:
        if self._is_taken_over():
            return
        file = sendable_file(iterable)
        if file is not None and self._body_is_allowed():
            self._streaming = True
            self._runtime.streams.add(self)
            suspend(self.transmission.send_file(self._started_head(), file))
            self._end()
            return
        if not isinstance(iterable, (list, tuple)):
            self._begin_stream()
        elif self.transmission.response is None and self._finish_list(b"".join(iterable)):
            return
        for chunk in iterable:
            if self._is_taken_over():
                return  # By an app that is called late, as by Werkzeug's debugger.
            if not chunk:
                continue  # An empty one does not even make the headers leave.
            if not self._body_is_allowed():
                break
            begun = self.transmission.response is not None
            if not begun and len(chunk) == self._started_head().content_length:
                # The usual Flask response: one chunk, of the declared length.
                self._finish(chunk)
            elif self.whole_body is None:
                self._write(chunk)
        if not self._is_taken_over():
            self._end()

    def _begin_stream(self) -> None:
        self._streaming = True
        self._runtime.streams.add(self)
        self._note_event_stream()
        if self.transmission.disconnected and not self._cancel_on_disconnect:
            # It went away while the view was running; nobody will tell us again.
            if self._head is not None:
                raise _ClientGone("The client has gone.")
            self._caller.cancel()

    def _note_event_stream(self) -> None:
        if self._head is not None and self._head.content_type == "text/event-stream":
            self._runtime.event_streams.add(self)
            if self._runtime.stopping:
                # Too late for the others' end. It gets its headers, or the client would not try
                # again.
                self.dismissed = True
                suspend(self.transmission.send_chunk(self._head, b""))
                raise _ClientGone("The server is stopping.")

    def _finish_list(self, body: bytes) -> bool:
        """Send a body that was returned whole, unless its length is not the declared one."""
        if self._started_head().content_length not in (None, len(body)):
            return False
        self._finish(body)
        return True

    def _finish(self, body: bytes) -> None:
        """Send a complete body, or have the task send it."""
        head = self._started_head()
        if self._caller.hands_over:
            self.whole_body = body
            self._caller.signal()
        else:
            suspend(self.transmission.send_whole(head, body))

    def _write(self, chunk: bytes) -> None:
        """Send a chunk now and wait while the client is too slow."""
        if not isinstance(chunk, bytes):
            raise TypeError(f"A WSGI application must send bytes, not {type(chunk).__name__}.")
        if self.was_stopped:
            raise _ClientGone("The client has gone.")
        if self.transmission.response is None:
            self._note_event_stream()  # start_response may have been called only now.
        suspend(self.transmission.send_chunk(self._started_head(), chunk))
        if self.transmission.disconnected:
            raise _ClientGone("The client has gone.")

    def _end(self) -> None:
        """Complete the response after the last chunk."""
        transmission = self.transmission
        if self.whole_body is not None or transmission.complete or transmission.disconnected:
            return
        declared = self._started_head().content_length
        sent = transmission.response.sent if transmission.response is not None else 0
        if declared is not None and sent < declared and self._body_is_allowed():
            raise RuntimeError(
                f"The application declared a Content-Length of {declared} bytes but sent {sent}."
            )
        if transmission.response is None:
            self._finish(b"")
        else:
            suspend(transmission.finish())

    def _body_is_allowed(self) -> bool:
        return self._started_head().allows_body(self._method)

    def _started_head(self) -> ResponseHead:
        if self._head is None:
            raise AssertionError(
                "The application sent a body before it had called start_response (PEP 3333)."
            )
        return self._head
