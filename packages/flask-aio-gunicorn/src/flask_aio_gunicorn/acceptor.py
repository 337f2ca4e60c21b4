"""Accepting connections, never more at once than ``worker_connections``."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Final

from flask_aio_core.serving import Connections

#: Connections that are accepted before others get their turn: other workers listen too.
_BATCH: Final = 16
#: Seconds that TLS handshakes get to end when the worker stops: a client may never go on with one.
_HANDSHAKE: Final = 2.0
#: Seconds until the next try when the system has no more file descriptors or memory.
_RECOVERY: Final = 1.0
_EXHAUSTED: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Acceptor:
    """Accepts the connections of all listening sockets of one worker.

    asyncio's own servers cannot be told to wait: over the bound, connections are left to the
    system's backlog, or to other workers that listen on the same socket.

    :param limit: how many connections may be open at once.
    :param on_exhausted: called with an error of the system, like too many open files.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        connections: Connections,
        *,
        limit: int,
        ssl_context: ssl.SSLContext | None,
        on_exhausted: Callable[[OSError], None],
    ) -> None:
        self._sockets = sockets
        self._connections = connections
        self._limit = limit
        self._ssl_context = ssl_context
        self._on_exhausted = on_exhausted
        self._loop = asyncio.get_running_loop()
        self._open = 0
        self._listening = False
        self._closed = False
        self._beginning: set[asyncio.Task[None]] = set()
        connections.on_end = self._release

    def start(self) -> None:
        """Begin to accept."""
        for sock in self._sockets:
            sock.setblocking(False)
        self._listen()

    def close(self) -> None:
        """Accept what is waiting already, then nothing more."""
        self._pause()
        self._closed = True
        for sock in self._sockets:
            while self._open < self._limit and self._accept_one(sock):
                pass
            sock.close()
        self._loop.call_later(_HANDSHAKE, self._give_up)

    def _listen(self) -> None:
        if self._listening or self._closed:
            return
        self._listening = True
        for sock in self._sockets:
            self._loop.add_reader(sock, self._accept, sock)

    def _pause(self) -> None:
        if self._listening:
            self._listening = False
            for sock in self._sockets:
                self._loop.remove_reader(sock)

    def _accept(self, sock: socket.socket) -> None:
        for _ in range(_BATCH):
            if self._open >= self._limit:
                self._pause()
                return
            if not self._accept_one(sock):
                return

    def _accept_one(self, sock: socket.socket) -> bool:
        """Accept a connection and tell whether there may be another."""
        try:
            client, _ = sock.accept()
        except (BlockingIOError, InterruptedError):
            return False
        except ConnectionAbortedError:
            return True
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            self._on_exhausted(error)
            self._pause()
            self._loop.call_later(_RECOVERY, self._listen)
            return False
        client.setblocking(False)
        self._open += 1
        self._connections.expected += 1
        task = self._loop.create_task(self._begin(client))
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)
        return True

    async def _begin(self, client: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._connections, client, ssl=self._ssl_context
            )
        except BaseException as error:  # No TLS handshake: there will be no other end to count.
            client.close()
            self._release()
            if not isinstance(error, (OSError, asyncio.CancelledError)):
                raise
        finally:
            self._connections.expected -= 1

    def _give_up(self) -> None:
        for task in self._beginning:
            task.cancel()

    def _release(self) -> None:
        self._open -= 1
        if self._open < self._limit:
            self._listen()
