"""Sending one response over aiohttp, on the event loop: whole, in chunks, or from a file."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from .body import is_unasked
from .file_wrapper import FileRange
from .response import ResponseHead, WSGIResponse

if TYPE_CHECKING:
    from .runtime import Runtime

#: After how many chunks in a row a stream lets other requests run, if no chunk had to wait.
_FAIR_SHARE: Final = 16
_FILE_PIECE: Final = 256 * 1024


class Transmission:
    """What has been sent of a response, and the means to send more.

    A client that has gone is no error here: :attr:`disconnected` tells.
    """

    def __init__(self, runtime: Runtime, request: web.BaseRequest, environ: dict[str, Any]) -> None:
        self._runtime = runtime
        self._request = request
        self._environ = environ
        self._since_pause = 0
        #: The response, once its headers are on their way.
        self.response: WSGIResponse | None = None
        #: Whether all of the response has been sent.
        self.complete = False
        #: Whether the client has gone.
        self.disconnected = False

    async def send_whole(self, head: ResponseHead, body: bytes) -> None:
        """Send headers and body in one go."""
        response = self._new_response(head)
        if not head.allows_body(self._request.method):
            body = b""
        elif head.content_length is None:
            response.content_length = len(body)
        try:
            await response.prepare(self._request)
            self.response = response
            await response.write_eof(body)
            self.complete = True
        except ConnectionError:
            self.disconnected = True
        response.sent = len(body)

    async def send_chunk(self, head: ResponseHead, chunk: bytes) -> None:
        """Send a part of the body, after the headers; wait while the client is too slow."""
        try:
            response = await self._prepared(head)
            if head.allows_body(self._request.method):
                await response.write(chunk)
                response.sent += len(chunk)
        except ConnectionError:
            self.disconnected = True
        self._since_pause += 1
        if self._since_pause >= _FAIR_SHARE:
            self._since_pause = 0
            await asyncio.sleep(0)

    async def send_file(self, head: ResponseHead, file: FileRange) -> None:
        """Send a file, by the kernel if that is possible."""
        try:
            response = await self._prepared(head)
            response.start_without_body()
            transport = self._request.transport
            if transport is None or transport.is_closing():
                raise ConnectionResetError
            try:
                if file.size == 0 or head.content_length is None:
                    raise NotImplementedError  # Only aiohttp's writer can mark the end of it.
                sent = await asyncio.get_running_loop().sendfile(
                    transport, file.file, file.offset, file.size
                )
                # aiohttp's writer did not see these bytes; its access log counts them here.
                self._request.writer.output_size += sent
                response.sent += sent
            except NotImplementedError:  # uvloop has no sendfile.
                await self._send_file_in_pieces(response, file)
        except ConnectionError:
            self.disconnected = True

    async def finish(self) -> None:
        """Mark the end of a body that was sent in parts."""
        if self.response is not None:
            try:
                await self.response.write_eof()
                self.complete = True
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
            response.sent += len(piece)
            left = None if left is None else left - len(piece)

    async def _prepared(self, head: ResponseHead) -> WSGIResponse:
        if self.response is None:
            response = self._new_response(head)
            await response.prepare(self._request)
            self.response = response
        return self.response

    def _new_response(self, head: ResponseHead) -> WSGIResponse:
        response = head.response()
        if self._runtime.stopping or is_unasked(self._environ["wsgi.input"]):
            response.force_close()
        return response
