"""The worker threads: synchronous requests and blocking functions run in them, one at a time each.

``concurrent.futures`` is not used because its threads are joined when the interpreter exits: one
view that never returns would keep the process from ever ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from contextvars import Context
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from werkzeug.exceptions import ServiceUnavailable

from .bridge import run_in_thread

if TYPE_CHECKING:
    from .runtime import Runtime

T = TypeVar("T")


class WorkerCall(Generic[T]):
    """One function that runs in a worker thread for a task on the event loop.

    :param function: called with no arguments; it may wait for awaitables by :func:`.await_`.
    :param context: what ``contextvars`` see in it.
    """

    def __init__(self, runtime: Runtime, function: Callable[[], T], context: Context) -> None:
        self._runtime = runtime
        self._function: Callable[[], T] | None = function
        self._context = context
        self._signalled: asyncio.Future[None] | None = None
        self._result: T | None = None
        self._error: BaseException | None = None
        self._waiting: asyncio.Task[None] | None = None
        self._cancelled = False
        self._woken = False
        #: Whether the function has ended.
        self.ended = False

    def run(self) -> None:
        """Run the function; called in the worker thread."""
        function = cast("Callable[[], T]", self._function)
        self._function = None
        runtime = self._runtime
        try:
            self._result = run_in_thread(
                runtime.thread_greenlets(), function, self._context, self._wait
            )
        except BaseException as error:
            self._error = error
        self.ended = True
        self.signal()

    def signal(self) -> None:
        """Wake the task that waits in :meth:`wait`; called in the worker thread."""
        # The loop is closed if the server has stopped without us; then nobody waits any more.
        with contextlib.suppress(RuntimeError):
            self._runtime.loop.call_soon_threadsafe(self._wake)

    async def wait(self) -> None:
        """Wait until the thread signals or the function ends.

        A cancellation also cancels what the function waits for. The function itself cannot be
        stopped: its end is still awaited, until a second cancellation gives it up.
        """
        cancelled = False
        while not (self._woken or self.ended):
            self._signalled = self._runtime.loop.create_future()
            try:
                await self._signalled
            except asyncio.CancelledError:
                self.cancel()
                if cancelled:
                    raise
                cancelled = True
        self._woken = False
        if cancelled:
            raise asyncio.CancelledError

    def result(self) -> T:
        """Return the function's result, or raise its error."""
        if self._error is None:
            return cast(T, self._result)
        try:
            raise self._error
        finally:
            self._error = None

    def cancel(self) -> None:
        """Cancel what the function waits for, now or next; called on the event loop."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.cancel()
        else:
            self._cancelled = True

    def _wake(self) -> None:
        self._woken = True
        if self._signalled is not None and not self._signalled.done():
            self._signalled.set_result(None)

    def _wait(self, awaitable: Awaitable[Any], context: Context) -> Any:
        return self._runtime.wait(awaitable, context, on_start=self._started)

    def _started(self, task: asyncio.Task[None]) -> None:
        self._waiting = task
        if self._cancelled:
            self._cancelled = False
            task.cancel()


class WorkerThreads:
    """A bounded pool of threads with a bounded queue, used by one event loop.

    The threads are daemons and are started when they are first needed.

    :param limit: the number of threads.
    :param queue_limit: the number of calls that may wait for one.
    :param retry_after: seconds, told to a client that is turned away.
    """

    def __init__(self, limit: int, queue_limit: int, retry_after: int) -> None:
        self._limit = limit
        self._most = limit + queue_limit
        self._retry_after = retry_after
        self._queue: SimpleQueue[WorkerCall[Any] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._unfinished = 0

    def submit(self, call: WorkerCall[Any]) -> None:
        """Have a thread run the call.

        :raises ServiceUnavailable: all threads are busy and the queue is full.
        """
        with self._lock:
            if self._unfinished >= self._most:
                raise ServiceUnavailable(
                    f"All {self._limit} worker threads are busy and"
                    f" {self._most - self._limit} calls wait already.",
                    retry_after=self._retry_after,
                )
            self._unfinished += 1
            needed = min(self._unfinished, self._limit)
        if needed > len(self._threads):
            name = f"flask-aio-worker-{len(self._threads) + 1}"
            thread = threading.Thread(target=self._work, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)
        self._queue.put(call)

    def close(self) -> None:
        """End the idle threads, and each busy one after its current call."""
        for _ in self._threads:
            self._queue.put(None)
        if not self._unfinished:
            for thread in self._threads:
                thread.join(timeout=1)
        self._threads.clear()

    def _work(self) -> None:
        while (call := self._queue.get()) is not None:
            call.run()
            del call
            with self._lock:
                self._unfinished -= 1
