"""The worker threads: synchronous requests and blocking functions run in them, one at a time each.

``concurrent.futures`` is not used because its threads are joined when the interpreter exits: one
view that never returns would keep the process from ever ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from werkzeug.exceptions import ServiceUnavailable

from .bridge import run_in_thread
from .contention import Contention
from .thread_loop import lend_loop

if TYPE_CHECKING:
    from .runtime import Runtime

T = TypeVar("T")

#: Seconds that a cancelled call gets for its clean-up when the server stops.
_MOMENT: Final = 1.0


class WorkerCall(Generic[T]):
    """One function that runs in a worker thread for a task on the event loop.

    :param function: called with no arguments; it may wait for awaitables by :func:`.await_`.
    :param context: what ``contextvars`` see in it.
    """

    #: It runs in another thread than the task that waits for it.
    hands_over = True

    def __init__(self, runtime: Runtime, function: Callable[[], T], context: Context) -> None:
        self._runtime = runtime
        self._function: Callable[[], T] | None = function
        self._context = context
        self._signalled: asyncio.Future[None] | None = None
        self._result: T | None = None
        self._error: BaseException | None = None
        self._waiting: asyncio.Task[None] | None = None
        self._cancel_requested = False
        self._cancel_next = False
        self._woken = False
        self._abandoned = False
        self._on_signal: Callable[[], None] | None = None
        #: Whether nobody can wait for the function much longer.
        self.given_up = False
        #: Whether the function has ended.
        self.ended = False

    def on_first_signal(self, function: Callable[[], None]) -> None:
        """Have a function called in the worker thread, just before the first signal is given."""
        self._on_signal = function

    def run(self) -> None:
        """Run the function; called in the worker thread."""
        function = cast("Callable[[], T]", self._function)
        self._function = None
        greenlets = self._runtime.thread_greenlets()
        try:
            self._result = run_in_thread(
                greenlets, function, self._context, self._wait, self._runtime.wait
            )
        except BaseException as error:
            self._error = error
        self.ended = True
        self.signal()

    def signal(self) -> None:
        """Wake the task that waits in :meth:`wait`; called in the worker thread."""
        if self._on_signal is not None:
            self._on_signal()
            self._on_signal = None
        # The loop is closed if the server has stopped without us; then nobody waits any more.
        with contextlib.suppress(RuntimeError):
            self._runtime.loop.call_soon_threadsafe(self._wake)

    async def wait(self) -> None:
        """Wait until the thread signals or the function ends.

        A cancellation also cancels what the function waits for, unless that is a query of
        SQLAlchemy's: then it is the next wait of another kind. The function itself cannot be
        stopped: its end is still awaited, until a second cancellation gives it up.
        """
        cancelled = False
        while not (self._woken or self.ended or self._abandoned):
            self._signalled = self._runtime.loop.create_future()
            try:
                await self._signalled
            except asyncio.CancelledError:
                self.cancel()
                if cancelled:
                    raise
                cancelled = True
        self._woken = False
        if cancelled or (self._abandoned and not self.ended):
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
        """Cancel, once, what the function waits for now or next; called on the event loop."""
        if not self._cancel_requested:
            self._cancel_requested = True
            self._cancel_wait()

    def forget_cancel(self) -> None:
        """Let what the function waits for from now on be: it is cleaning up."""
        self._cancel_next = False

    def give_up(self) -> None:
        """Cancel what the function waits for, and wait for its end no longer than a moment."""
        self.given_up = True
        self._cancel_wait()
        self._runtime.loop.call_later(_MOMENT, self._abandon)

    def _cancel_wait(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.cancel()
        else:
            self._cancel_next = True

    def _abandon(self) -> None:
        self._abandoned = True
        self._wake()

    def _wake(self) -> None:
        self._woken = True
        if self._signalled is not None and not self._signalled.done():
            self._signalled.set_result(None)

    def _wait(self, awaitable: Awaitable[Any], context: Context) -> Any:
        lend_loop(self._runtime)  # Again: asyncio.run in a view leaves the thread without one.
        return self._runtime.wait(awaitable, context, on_start=self._started)

    def _started(self, task: asyncio.Task[None]) -> None:
        self._waiting = task
        if self._cancel_next:
            self._cancel_next = False
            task.cancel()


class WorkerThreads:
    """A bounded pool of threads with a bounded queue, used by one event loop.

    The threads are daemons and are started when they are first needed.

    :param limit: the number of threads.
    :param queue_limit: the number of calls that may wait for one.
    :param retry_after: seconds, told to a client that is turned away.
    :param max_lag: seconds that the loop may be late because calls compute; ``None`` does not care.
    :param at_end: called in each thread before it ends.
    """

    def __init__(
        self,
        limit: int,
        queue_limit: int,
        retry_after: int,
        max_lag: float | None,
        at_end: Callable[[], None],
    ) -> None:
        self._limit = limit
        self._queue_limit = queue_limit
        self._retry_after = retry_after
        self._at_end = at_end
        # Calls that a thread is free for, each; the others are pending.
        self._queue: SimpleQueue[WorkerCall[Any] | None] = SimpleQueue()
        self._pending: deque[WorkerCall[Any]] = deque()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        # Calls whose task has not had its answer yet; they count against the limits.
        self._unanswered = 0
        #: Calls that hold a thread; closing a response goes on after the answer.
        self.running = 0
        #: How many may; lower than the number of threads while they keep the loop waiting.
        self.running_limit = limit
        self._contention = (
            None if max_lag is None else Contention(asyncio.get_running_loop(), self, max_lag)
        )

    @property
    def is_unlimited(self) -> bool:
        """Whether every thread may run a call."""
        return self.running_limit == self._limit

    def submit(self, call: WorkerCall[Any]) -> None:
        """Have a thread run the call.

        :raises ServiceUnavailable: all threads are busy and the queue is full.
        """
        with self._lock:
            if self._unanswered >= self._limit + self._queue_limit:
                raise ServiceUnavailable(
                    f"All {self._limit} worker threads are busy, and {self._queue_limit} calls wait"
                    " for one already.",
                    retry_after=self._retry_after,
                )
            self._unanswered += 1
            call.on_first_signal(self._count_answer)
            if self.running >= self.running_limit:
                self._pending.append(call)
                return
            self.running += 1
        self._begin(call)
        if self.running > 1 and self._contention is not None:
            self._contention.watch()

    def limit_running(self, limit: int) -> None:
        """Have at most so many calls run at once; called on the loop."""
        self.running_limit = min(limit, self._limit)
        while True:
            with self._lock:
                if not self._pending or self.running >= self.running_limit:
                    return
                self.running += 1
                call = self._pending.popleft()
            self._begin(call)

    @property
    def limit(self) -> int:
        """The number of threads that there can be."""
        return self._limit

    @property
    def queued(self) -> int:
        """How many calls wait for a thread."""
        return len(self._pending)

    def close(self) -> None:
        """End the idle threads, and each busy one after its current call."""
        if self._contention is not None:
            self._contention.stop()
        self.limit_running(self._limit)
        for _ in self._threads:
            self._queue.put(None)
        # A thread that has just answered is about to end. It must not do so while the interpreter
        # is being torn down: letting go of its greenlets then crashes. One that hangs is left.
        end = time.monotonic() + (_MOMENT / 5 if self._unanswered else _MOMENT)
        for thread in self._threads:
            thread.join(timeout=max(0.0, end - time.monotonic()))
        self._threads.clear()

    def _count_answer(self) -> None:
        with self._lock:
            self._unanswered -= 1

    def _begin(self, call: WorkerCall[Any]) -> None:
        """Have a thread run a call that was counted as running; called on the loop."""
        if self.running > len(self._threads):
            name = f"flask-aio-worker-{len(self._threads) + 1}"
            thread = threading.Thread(target=self._work, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)
        self._queue.put(call)

    def _work(self) -> None:
        call: WorkerCall[Any] | None
        while (call := self._queue.get()) is not None:
            while call is not None:
                call.run()
                call = self._next()
        self._at_end()

    def _next(self) -> WorkerCall[Any] | None:
        """Return the call that the thread goes on with, if one waits and may run."""
        with self._lock:
            if self._pending and self.running <= self.running_limit:
                return self._pending.popleft()
            self.running -= 1
            return None
