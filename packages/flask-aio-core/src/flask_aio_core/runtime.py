"""What lives as long as one event loop serves one Flask app."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import aiohttp
from flask import Flask

from .bridge import (
    GreenletPool,
    as_coroutine,
    close_orphan,
    current_context,
    drive,
    run_on_loop,
)
from .config import check as check_config
from .event_loop import running_loop
from .exceptions import CannotSuspend, NotServing
from .lifecycle import Lifecycle
from .loop_lag import LoopLag
from .mailbox import Mailbox
from .request_id import RequestIDs
from .thread_loop import lend_loop
from .threads import WorkerThreads
from .watchdog import Watchdog

if TYPE_CHECKING:
    from .exchange import Exchange

T = TypeVar("T")

#: Seconds between two looks at the loop outside of debug mode, at least. A short blockade is seen
#: by chance: the more likely, the longer it takes and the more often it happens.
_PRODUCTION_INTERVAL: Final = 0.5
#: Seconds in which the watchdog does not name the same function again outside of debug mode.
_PRODUCTION_QUIET: Final = 60.0


class Runtime:
    """The greenlets, threads, tasks and HTTP client of one app on one event loop.

    Made on the loop; :meth:`start` and :meth:`stop` are awaited there.
    """

    def __init__(self, app: Flask, lifecycle: Lifecycle) -> None:
        self.app = app
        self.loop = asyncio.get_running_loop()
        check_config(app)
        config = app.config
        self.greenlets = GreenletPool(self, on_loop=True)
        self.threads = WorkerThreads(
            config["AIO_WORKER_THREADS"],
            config["AIO_WORKER_QUEUE"],
            config["AIO_RETRY_AFTER"],
            config["AIO_MAX_LAG"],
            at_end=lambda: self.thread_greenlets().close(),
        )
        #: Whether the server has begun to stop: connections close after their current response.
        self.stopping = False
        #: Requests that the app is answering, on the event loop and in worker threads; written by
        #: the loop's thread only.
        self.requests_on_loop = 0
        self.requests_in_threads = 0
        #: Responses that are being sent in parts.
        self.streams: set[Exchange] = set()
        #: Those of type text/event-stream.
        self.event_streams: set[Exchange] = set()
        self._lifecycle = lifecycle.begin(app)
        self._local = threading.local()
        self._client: aiohttp.ClientSession | None = None
        self._background: set[asyncio.Task[Any]] = set()
        self._waits: set[asyncio.Task[None]] = set()
        self._hurry = asyncio.Event()
        self._stopped = False
        self.request_ids = RequestIDs.configured(app)
        watch = config["AIO_WATCHDOG"]
        limit = config["AIO_SLOW_CALLBACK"] or 0.0
        enabled = limit and (app.debug if watch is None else watch)
        interval = limit / 2 if enabled and app.debug else max(limit / 2, _PRODUCTION_INTERVAL)
        self.lag = LoopLag(self.loop, interval, limit)
        quiet = 0.0 if app.debug else _PRODUCTION_QUIET
        self._watchdog = Watchdog(self.lag, limit, quiet) if enabled else None

    async def start(self) -> None:
        """Run the start hooks of the app."""
        if self._watchdog is not None:
            self.lag.start()
            self._watchdog.start()
        try:
            await self.in_app_context(self._lifecycle.start)
        except BaseException:
            await self.stop()
            raise

    @property
    def background_tasks(self) -> int:
        """How many background tasks have not ended."""
        return len(self._background)

    def hurry(self) -> None:
        """Do not wait for background tasks when stopping, also when that has begun already."""
        self._hurry.set()

    async def stop(self) -> None:
        """End the background tasks, run the clean-up hooks, let go of everything."""
        try:
            await self._end_background()
            await self.in_app_context(self._lifecycle.stop)
        finally:
            self._stopped = True
            if self._client is not None:
                await self._client.close()
            await _cancel_all(self._waits)
            self.threads.close()
            self.greenlets.close()
            self.lag.stop()
            if self._watchdog is not None:
                self._watchdog.stop()

    async def in_app_context(self, function: Callable[[], Awaitable[T]]) -> T:
        """Await a coroutine function inside the app context, where synchronous code can wait.

        Context variables that it sets stay set in the calling task, as in aiohttp's start hooks.
        """

        def call() -> T:
            with self.app.app_context():
                return drive(function())

        return await run_on_loop(self, call, current_context())

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T | None]:
        """Run a coroutine as a background task; called on the loop."""
        task = self.loop.create_task(self._in_background(coroutine))
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    def client(self) -> aiohttp.ClientSession:
        """Return the shared HTTP client; called on the loop."""
        client = self._client
        if client is None or client.closed:
            if self._stopped:
                raise NotServing("The server has stopped, and aio.client was closed with it.")
            # A cookie that one user's request brings must not go out with another user's.
            ids = self.request_ids
            client = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(),
                middlewares=() if ids is None else ids.client_middlewares,
            )
            self._client = client
        return client

    def wait(
        self,
        awaitable: Awaitable[T],
        context: Context,
        on_start: Callable[[asyncio.Task[None]], None] | None = None,
    ) -> T:
        """Block the current thread until the event loop has run an awaitable; return its result.

        :param on_start: called on the loop with the task that runs it.
        :raises CannotSuspend: this thread is the one the loop runs in.
        :raises NotServing: the loop has ended.
        """
        if running_loop() is self.loop:
            close_orphan(awaitable)
            raise CannotSuspend(
                "This would block the event loop for ever: it would wait for something that only"
                " the loop itself can run. In a coroutine, use 'await'."
            )
        mailbox = Mailbox()
        tasks: list[asyncio.Task[None]] = []

        def end(task: asyncio.Task[None]) -> None:
            self._waits.discard(task)
            if task.cancelled():  # Before its first step; it could not tell the thread itself.
                close_orphan(awaitable)
                mailbox.deliver(None, asyncio.CancelledError())

        def begin() -> None:
            task = self.loop.create_task(self._perform(awaitable, context, mailbox))
            tasks.append(task)
            self._waits.add(task)
            task.add_done_callback(end)
            if on_start is not None:
                on_start(task)

        try:
            self.loop.call_soon_threadsafe(begin)
        except RuntimeError:
            close_orphan(awaitable)
            raise NotServing("The server's event loop has ended; nothing can run on it.") from None
        try:
            return mailbox.wait()  # type: ignore[no-any-return]
        except KeyboardInterrupt:
            self.loop.call_soon_threadsafe(lambda: [task.cancel() for task in tasks])
            raise

    def thread_greenlets(self) -> GreenletPool:
        """Return the greenlets of the current thread, which is not the loop's."""
        try:
            return self._local.greenlets  # type: ignore[no-any-return]
        except AttributeError:
            self._local.greenlets = pool = GreenletPool(self)
            lend_loop(self)
            return pool

    async def _perform(self, awaitable: Awaitable[Any], context: Context, mailbox: Mailbox) -> None:
        try:
            if self._stopped:
                close_orphan(awaitable)
                raise NotServing("The server has stopped; nothing can run on its loop.")
            run = partial(drive, awaitable)
            mailbox.deliver(await run_on_loop(self, run, context, mailbox), None)
        except BaseException as error:
            mailbox.deliver(None, error)

    async def _in_background(self, coroutine: Coroutine[Any, Any, T]) -> T | None:
        def call() -> T:
            with self.app.app_context():
                return drive(as_coroutine(coroutine))

        try:
            return await run_on_loop(self, call, copy_context())
        except Exception:
            name = getattr(coroutine, "__qualname__", coroutine)
            self.app.logger.exception("The background task %r failed.", name)
            return None

    async def _end_background(self) -> None:
        if self._background:
            ends = asyncio.gather(*self._background, return_exceptions=True)
            hurry = self.loop.create_task(self._hurry.wait())
            either: set[asyncio.Future[Any]] = {ends, hurry}
            await asyncio.wait(
                either,
                timeout=self.app.config["AIO_BACKGROUND_GRACE"],
                return_when=asyncio.FIRST_COMPLETED,
            )
            hurry.cancel()
        await _cancel_all(self._background)


async def _cancel_all(tasks: set[Any]) -> None:
    """Cancel tasks and wait for their ends."""
    left = list(tasks)
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
