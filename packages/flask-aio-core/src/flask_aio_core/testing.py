"""For the tests of an app: the real server in a thread, or on the event loop of the test."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.typedefs import StrOrURL
from flask import Flask
from yarl import URL

from .application import unused_application
from .event_loop import loop_factory
from .http_server import HTTPServer
from .listener import site_url, tcp_socket
from .serving import ensure_extension

__all__ = ["AioClient", "LiveServer"]

T = TypeVar("T")

_HOST: Final = "127.0.0.1"


class LiveServer:
    """The server of ``aio.run`` in a thread of this process, for clients of any kind.

    As a context manager it is started and stopped with the block, and so are the app's start and
    clean-up hooks run. It may be started again after it was stopped.

    :param app: the app; it gets the extension if it does not have it.
    :param host: an address of this machine; ``0.0.0.0`` lets a browser in a container call it.
    :param port: 0 takes any free one.
    :param grace: seconds that running requests get when the server is stopped.
    """

    def __init__(
        self,
        app: Flask,
        *,
        host: str = _HOST,
        port: int = 0,
        grace: float = 1.0,
    ) -> None:
        ensure_extension(app)
        self.app = app
        self._host = host
        self._port = port
        self._grace = grace
        self._url = ""
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._ended: Future[None] = Future()

    @property
    def url(self) -> str:
        """The address of the server, without a slash at its end."""
        if self._thread is None:
            raise RuntimeError("The server does not run: call start(), or use 'with'.")
        return self._url

    def start(self) -> None:
        """Start the server, and return when it accepts connections.

        What a start hook raises is raised here.

        :raises OSError: the address is in use, or is none of this machine.
        :raises RuntimeError: it has been started already.
        """
        if self._thread is not None:
            raise RuntimeError("The server has been started already.")
        sock = tcp_socket(self._host, self._port)
        self._url = site_url(sock, secure=False)
        self._stopping, self._ended = asyncio.Event(), Future()
        started: Future[None] = Future()
        # A daemon, so that a view that never ends does not keep the process from ending.
        self._thread = threading.Thread(
            target=self._run, args=(sock, started), name="flask-aio-live-server", daemon=True
        )
        self._thread.start()
        try:
            started.result()
        except BaseException:
            if started.done():  # It is not when Ctrl-C ends a start hook that hangs.
                self._thread.join()
                self._thread = self._loop = None
            raise

    def stop(self) -> None:
        """Stop the server, and wait for its end; nothing happens if it does not run.

        What a clean-up hook raises is raised here.
        """
        if self._thread is None or self._loop is None:
            return
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._thread = self._loop = None
        self._ended.result()

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run a coroutine on the server's event loop; return its result.

        :param timeout: seconds.
        :raises TimeoutError: it took longer, and was cancelled.
        :raises RuntimeError: the server does not run.
        """
        if self._loop is None:
            coroutine.close()
            raise RuntimeError("The server does not run: call start(), or use 'with'.")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(timeout)
        except TimeoutError as error:
            if future.done():  # It is the coroutine's own.
                raise
            raise TimeoutError(
                f"It took longer than {timeout:g} s, or something blocks the event loop."
            ) from error
        finally:
            future.cancel()  # Does nothing to one that has ended.

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _run(self, sock: socket.socket, started: Future[None]) -> None:
        try:
            with sock, asyncio.Runner(loop_factory=loop_factory(None)) as runner:
                self._loop = runner.get_loop()
                runner.run(self._serve(sock, started))
        except BaseException as error:  # A thread would only print it; SystemExit not even that.
            (self._ended if started.done() else started).set_exception(error)
        else:
            self._ended.set_result(None)

    async def _serve(self, sock: socket.socket, started: Future[None]) -> None:
        server = _http_server(self.app, unused_application(self.app))
        try:
            await server.start()
            await server.listen(sock)
            started.set_result(None)
            await self._stopping.wait()
        finally:
            await server.stop(self._grace)


class AioClient(TestClient[web.Request, web.Application]):
    """aiohttp's test client, and the server of ``aio.run`` on the event loop of the test.

    A context manager, by ``async with``; it is made where the event loop runs. Requests are made as
    by :class:`aiohttp.ClientSession`, to paths: ``await client.get("/")``. Start and clean-up hooks
    are run, and what they raise is raised there.

    :param app: the app; it gets the extension if it does not have it.
    :param grace: seconds that running requests get when the server is stopped.
    :param options: arguments of :class:`aiohttp.ClientSession`.
    """

    def __init__(self, app: Flask, *, grace: float = 1.0, **options: Any) -> None:
        ensure_extension(app)
        self._http = _Server(app, grace)
        super().__init__(self._http, **options)

    @property
    def url(self) -> str:
        """The address of the server, without a slash at its end."""
        return self._http.url

    async def __aenter__(self) -> Self:
        try:
            await self.start_server()
        except BaseException:
            await self.close()
            raise
        return self


class _Server(TestServer):
    """aiohttp's test server, but for what serves: its own cancels handlers whose client leaves."""

    def __init__(self, app: Flask, grace: float) -> None:
        application = unused_application(app)
        super().__init__(application)
        self.url = ""
        self._http = _http_server(app, application)
        self._grace = grace

    async def start_server(
        self, loop: asyncio.AbstractEventLoop | None = None, **kwargs: Any
    ) -> None:
        await self._http.start()
        sock = tcp_socket(self.host, 0)
        self.port = sock.getsockname()[1]
        self.url = site_url(sock, secure=False)
        await self._http.listen(sock)

    def make_url(self, path: StrOrURL) -> URL:
        return URL(self.url).join(URL(path))

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await self._http.stop(self._grace)


def _http_server(app: Flask, application: web.Application) -> HTTPServer:
    return HTTPServer(application, keepalive=app.config["AIO_KEEPALIVE"])
