"""Rooms: what is published to a channel reaches every WebSocket that has joined it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal, cast

from aiohttp import WSCloseCode, WSMsgType

from .connection import WebSocket
from .synchronous import SyncWebSocket

OnFull = Literal["disconnect", "drop"]
_Message = tuple[bytes, WSMsgType]


class Channel:
    """A named group of WebSockets in this process.

    Every member has a queue of its own, which a task empties: one that receives slowly delays
    nobody else, and no more than ``queue_size`` messages wait for it.

    All methods are coroutines, though none waits for a client, so that a backend which carries
    messages between processes can have the same ones. Synchronous views call them by ``await_``.

    :param name: for the channel's users, and for such a backend.
    :param queue_size: messages that may wait for one member.
    :param on_full: what happens to a member whose queue is full: ``"disconnect"`` closes its socket
        with 1013, so that its client can come back and catch up; ``"drop"`` leaves messages out.
    """

    def __init__(
        self, name: str = "", *, queue_size: int = 64, on_full: OnFull = "disconnect"
    ) -> None:
        if queue_size < 1:
            raise ValueError(f"queue_size must be at least 1, not {queue_size!r}.")
        if on_full not in ("disconnect", "drop"):
            raise ValueError(f"on_full must be 'disconnect' or 'drop', not {on_full!r}.")
        self.name = name
        self._queue_size = queue_size
        self._on_full = on_full
        self._members: dict[WebSocket, _Member] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, socket: object) -> bool:
        return _plain(socket) in self._members

    async def join(self, socket: Any) -> None:
        """Add an open WebSocket; nothing happens if it is a member."""
        plain = _plain(socket)
        if plain not in self._members and not plain.closed:
            self._members[plain] = _Member(plain, self._queue_size)

    async def leave(self, socket: Any) -> None:
        """Remove a WebSocket; what waits for it is not sent. Nothing happens if it is no member."""
        member = self._members.pop(_plain(socket), None)
        if member is not None:
            member.stop()

    @asynccontextmanager
    async def joined(self, socket: Any) -> AsyncIterator[Channel]:
        """Be a member inside an ``async with`` block."""
        await self.join(socket)
        try:
            yield self
        finally:
            await self.leave(socket)

    async def publish(self, data: str | bytes) -> int:
        """Send a text message for a string, a binary one for bytes, to all members.

        :return: how many members it was queued for.
        """
        if not isinstance(data, (str, bytes)):
            raise TypeError(
                f"publish sends strings and bytes, not {type(data).__name__}; see publish_json."
            )
        # Encoded once for all members, and here: what cannot be encoded is the caller's error.
        kind = WSMsgType.TEXT if isinstance(data, str) else WSMsgType.BINARY
        payload = data.encode() if isinstance(data, str) else data
        reached = 0
        for socket, member in list(self._members.items()):
            if socket.closed or member.ended:
                await self.leave(socket)
            elif member.offer((payload, kind)):
                reached += 1
            elif self._on_full == "disconnect":
                await self.leave(socket)
                member.disconnect()
        return reached

    async def publish_json(self, data: Any) -> int:
        """Send data as JSON, in a text message, to all members; it is encoded once."""
        return await self.publish(json.dumps(data))


class _Member:
    """The queue of one member, and the task that sends what is in it."""

    def __init__(self, socket: WebSocket, queue_size: int) -> None:
        self._socket = socket
        self._queue: asyncio.Queue[_Message] = asyncio.Queue(queue_size)
        self._task = asyncio.get_running_loop().create_task(self._send())

    @property
    def ended(self) -> bool:
        return self._task.done()

    def offer(self, message: _Message) -> bool:
        """Queue a message, or return ``False`` if there is no room."""
        try:
            self._queue.put_nowait(message)
        except asyncio.QueueFull:
            return False
        return True

    def stop(self) -> None:
        self._task.cancel()

    def disconnect(self) -> None:
        """Close the socket without waiting for a client that does not even read."""
        task = asyncio.get_running_loop().create_task(
            self._socket.end(WSCloseCode.TRY_AGAIN_LATER, b"Too slow.")
        )
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)

    async def _send(self) -> None:
        try:
            while True:
                payload, kind = await self._queue.get()
                await self._socket.send_frame(payload, kind)
        except ConnectionError:
            pass  # The client has gone; its view will notice, and publish lets go of it.


#: Tasks that nothing else keeps from being collected before they have ended.
_tasks: set[asyncio.Task[None]] = set()


def _plain(socket: Any) -> WebSocket:
    """Return aiohttp's object for any face of a WebSocket."""
    get_current = getattr(socket, "_get_current_object", None)
    if get_current is not None:
        socket = get_current()
    return socket.socket if isinstance(socket, SyncWebSocket) else cast(WebSocket, socket)
