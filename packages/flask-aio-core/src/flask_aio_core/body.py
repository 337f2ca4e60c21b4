"""``wsgi.input`` over the body of an aiohttp request."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final

import flask
from aiohttp import hdrs, web
from werkzeug.exceptions import BadRequest, ClientDisconnected, RequestEntityTooLarge

from .bridge import suspend

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_PIECE: Final = 256 * 1024
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


async def read_small_body(
    request: web.BaseRequest, environ: dict[str, Any], limit: int
) -> io.BytesIO | None:
    """Read a body that is at most ``limit`` bytes long, before the app is called.

    Return ``None`` for a longer one, one whose length is not known in advance, and one that the
    client sends only when it is asked to (``Expect: 100-continue``): the app may never read it.

    :param environ: says how long the body is that the app can read.
    :raises ClientDisconnected: the client went away before it had sent the body.
    """
    if not request.body_exists:
        return io.BytesIO()
    declared = environ.get("CONTENT_LENGTH", "")
    if not declared.isdigit() or int(declared) > limit or expects_continue(request):
        return None
    try:
        return io.BytesIO(await request.content.readexactly(int(declared)))
    except Exception as error:
        raise _body_error(error) from error


def streamed_body(request: web.BaseRequest) -> io.BufferedReader:
    """Return a file object that reads the body from the socket as the app asks for it.

    Reading waits: it needs a bridge greenlet. The client is slowed down to the speed of the reader.
    """
    return io.BufferedReader(RequestBody(request), buffer_size=64 * 1024)


def expects_continue(request: web.BaseRequest) -> bool:
    """Whether the client waits for ``100 Continue`` before it sends the body (RFC 9110, 10.1.1)."""
    expect = request.headers.get(hdrs.EXPECT, "")
    return expect.lower() == "100-continue" and request.version >= (1, 1)


class RequestBody(io.RawIOBase):
    """The raw stream below :func:`streamed_body`; the first read asks the client to go on."""

    def __init__(self, request: web.BaseRequest) -> None:
        super().__init__()
        self._request = request
        self._ask = expects_continue(request)
        self._received = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        piece = suspend(self._receive(len(view)))
        view[: len(piece)] = piece
        return len(piece)

    def readall(self) -> bytes:
        # The inherited method reads a few kilobytes at a time, each a switch to the loop.
        return b"".join(iter(lambda: suspend(self._receive(_PIECE)), b""))

    async def _receive(self, size: int) -> bytes:
        if self._ask:
            self._ask = False
            writer = self._request.writer
            await writer.write(_CONTINUE)
            # aiohttp takes bytes that were sent for the beginning of the response.
            writer.output_size = 0
        content = self._request.content
        try:
            piece = await content.read(size)
            self._received += len(piece)
            limit = self._limit()
            # Werkzeug stops reading at the limit, and would take the rest for the end of the body.
            if limit is not None and self._received >= limit:
                self._received += len(await content.read(1))
        except Exception as error:
            raise _body_error(error) from error
        if limit is not None and self._received > limit:
            raise RequestEntityTooLarge
        return piece

    def _limit(self) -> int | None:
        """Return ``MAX_CONTENT_LENGTH``, or what the view has put in its place."""
        if self._request.content_length is None and flask.has_request_context():
            return flask.request.max_content_length
        return None  # Werkzeug has compared it with the declared length.

    @property
    def was_asked_for(self) -> bool:
        """Whether the client has sent, or was told to send, the body."""
        return not self._ask


def is_unasked(body: object) -> bool:
    """Whether the client still waits to be told to send the body that this is the stream of.

    After the response it may send it all the same, or go on with the next request: the two cannot
    be told apart, and the connection has to be closed.
    """
    raw = getattr(body, "raw", None)
    return isinstance(raw, RequestBody) and not raw.was_asked_for


def _body_error(error: Exception) -> Exception:
    """Turn an error of the transport or the parser into the 4xx that Flask answers it with."""
    if isinstance(error, (ConnectionError, EOFError)):
        return ClientDisconnected("The client went away before it had sent the whole body.")
    if isinstance(error, web.RequestPayloadError):
        return BadRequest(f"The request body is malformed: {error}")
    return error
