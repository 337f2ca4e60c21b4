"""Greenlets that let synchronous code wait for an awaitable without blocking the event loop.

Flask, its extensions and WSGI middleware are synchronous. Their call runs, unmodified, on a
*bridge greenlet*; when anything in it waits, the greenlet hands what it waits for to its *driver*
and is switched back to with the result.

There are two drivers. :func:`run_on_loop` is a coroutine: to asyncio the whole call is one task
that awaits one awaitable, so cancellation, timeouts, task groups and ``current_task`` work.
:func:`run_in_thread` serves a worker thread: it has the event loop wait on the thread's behalf.

A coroutine is driven *inside* its greenlet (:func:`drive`). Code called from a coroutine can
therefore wait as well: ``request.form`` in an ``async def`` view reads the body from the socket.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from greenlet import GreenletExit, getcurrent, greenlet

from .exceptions import AioError, CannotSuspend

if TYPE_CHECKING:
    from .mailbox import Mailbox
    from .runtime import Runtime

T = TypeVar("T")

#: Tells a driver that the function given to a greenlet has ended.
_FINISHED: Final = object()
#: Tells the loop's driver that ``greenlet.yielded`` must be yielded to the asyncio task.
_YIELDED: Final = object()


class BridgeGreenlet(greenlet):
    """Runs one function after the other; each can be suspended in the middle.

    A greenlet keeps no reference to a function, its result or its context once that has ended, and
    no exception of a function ends the greenlet.
    """

    # SQLAlchemy's asyncio drivers suspend any greenlet that carries this mark, by switching an
    # awaitable to its parent: an unmodified Flask-SQLAlchemy app can use them through the drivers.
    __sqlalchemy_greenlet_provider__ = True

    #: The event loop and threads that its functions belong to; ``None`` if no server runs them.
    runtime: Runtime | None
    #: Whether this greenlet belongs to the thread of the event loop.
    on_loop: bool
    #: The thread that waits for the current function, if one does: in_thread calls go there.
    mailbox: Mailbox | None = None
    #: In a worker thread: whether the wait that begins is :func:`suspend`'s, not SQLAlchemy's.
    own_wait = False

    _function: Callable[[], Any] | None = None
    _result: Any = None
    _error: BaseException | None = None
    _yielded: Any = None

    def __init__(self, runtime: Runtime | None, on_loop: bool) -> None:
        super().__init__()
        self.runtime = runtime
        self.on_loop = on_loop

    def run(self) -> None:
        while (function := self._function) is not None:
            self._function = None
            try:
                self._result = function()
            except GreenletExit:
                raise
            except BaseException as error:
                self._error = error
            function = None
            self.parent.switch(_FINISHED)  # type: ignore[union-attr]

    def begin(self, function: Callable[[], Any], context: Context, mailbox: Mailbox | None) -> Any:
        """Switch to a function that starts; return what it first switches to the driver."""
        self._function = function
        self.gr_context = context
        self.mailbox = mailbox
        self.parent = getcurrent()
        return self.switch()

    def resume(self, sent: Any, error: BaseException | None) -> Any:
        """Switch back to the function with the result, or the error, that it waited for."""
        # An eagerly started task takes its first step in another greenlet than the later ones.
        self.parent = getcurrent()
        if error is None:
            return self.switch(sent)
        return self.throw(type(error), error, error.__traceback__)

    def end(self) -> Any:
        """Return the result of the function that has ended, or raise its error."""
        result, error = self._result, self._error
        self._result = self._error = self._yielded = self.mailbox = None
        if error is None:
            return result
        try:
            raise error
        finally:
            # Without this the traceback, this frame and the error would form a cycle.
            del error


@types.coroutine
def run_on_loop(
    runtime: Runtime,
    function: Callable[[], T],
    context: Context,
    mailbox: Mailbox | None = None,
) -> Generator[Any, Any, T]:
    """Run a synchronous function on a greenlet of the event loop's thread; await its result.

    :param context: what ``contextvars`` see in the function and in all that it waits for.
    :param mailbox: the thread that waits for the function, if one does.
    """
    pool = runtime.greenlets
    bridge = pool.acquire()
    switched = bridge.begin(function, context, mailbox)
    while switched is not _FINISHED:
        sent = error = None
        try:
            if switched is _YIELDED:
                sent = yield bridge._yielded
            else:  # An awaitable from SQLAlchemy. It too must see the request's context.
                sent = yield from run_on_loop(
                    runtime, partial(drive, switched), bridge.gr_context or context, mailbox
                )
        except BaseException as raised:
            error = raised
        switched = bridge.resume(sent, error)
        del sent, error
    try:
        return bridge.end()  # type: ignore[no-any-return]
    finally:
        pool.release(bridge)


def run_in_thread(
    pool: GreenletPool,
    function: Callable[[], T],
    context: Context,
    wait: Callable[[Awaitable[Any], Context], Any],
    wait_to_end: Callable[[Awaitable[Any], Context], Any] | None = None,
) -> T:
    """Run a synchronous function on a greenlet of the current worker thread; return its result.

    :param wait: called with each awaitable that the function waits for, and its context; it blocks
        until the event loop has the result.
    :param wait_to_end: called instead with those that SQLAlchemy waits for, which must not be
        cancelled: in a thread it could not close the connection, and need not lose it.
    """
    bridge = pool.acquire()
    switched = bridge.begin(function, context, None)
    while switched is not _FINISHED:
        sent = error = None
        try:
            block = wait if bridge.own_wait else wait_to_end or wait
            bridge.own_wait = False
            sent = block(switched, bridge.gr_context or context)
        except BaseException as raised:
            error = raised
        switched = bridge.resume(sent, error)
        del sent, error
    try:
        return bridge.end()  # type: ignore[no-any-return]
    finally:
        pool.release(bridge)


def drive(awaitable: Awaitable[T]) -> T:
    """Run an awaitable to its end on the current greenlet, a bridge greenlet of the loop."""
    bridge: BridgeGreenlet = getcurrent()  # type: ignore[assignment]
    coroutine = as_coroutine(awaitable)
    error: BaseException | None = None
    sent: Any = None
    try:
        while True:
            yielded = coroutine.send(sent) if error is None else coroutine.throw(error)
            if yielded is not None and not hasattr(yielded, "_asyncio_future_blocking"):
                sent, error = None, _bad_yield(yielded)
                continue
            bridge._yielded = yielded
            del yielded
            sent = error = None
            try:
                sent = bridge.parent.switch(_YIELDED)  # type: ignore[union-attr]
            except BaseException as raised:
                error = raised
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    finally:
        del error


def current_bridge() -> BridgeGreenlet | None:
    """Return the bridge greenlet that runs this code, if one does."""
    current = getcurrent()
    return current if isinstance(current, BridgeGreenlet) else None


def suspend(awaitable: Awaitable[T]) -> T:
    """Wait for an awaitable on the current greenlet; it must be one that can be suspended.

    :raises CannotSuspend: there is no such greenlet here.
    """
    current = getcurrent()
    if isinstance(current, BridgeGreenlet) and current.on_loop:
        return drive(awaitable)
    if getattr(current, "__sqlalchemy_greenlet_provider__", False):
        # A worker thread's greenlet, or one that SQLAlchemy made: its driver awaits for us.
        if isinstance(current, BridgeGreenlet):
            current.own_wait = True
        return current.parent.switch(awaitable)  # type: ignore[no-any-return, union-attr]
    close_orphan(awaitable)
    raise CannotSuspend("This code does not run on a greenlet that can be suspended.")


def can_suspend() -> bool:
    """Whether :func:`suspend` can be used here."""
    return getattr(getcurrent(), "__sqlalchemy_greenlet_provider__", False)


def current_context() -> Context:
    """Return the current context itself, not a copy of it."""
    copy_context()  # A thread has none before something asks for it.
    context = getcurrent().gr_context
    assert context is not None
    return context


def as_coroutine(awaitable: Awaitable[T]) -> Coroutine[Any, Any, T]:
    """Return a coroutine for any awaitable, and refuse one that was awaited before."""
    if isinstance(awaitable, types.CoroutineType):
        if awaitable.cr_frame is None:
            raise AioError(
                f"The coroutine {awaitable.__qualname__!r} was already awaited, and a coroutine"
                " runs only once. Call its function again to get a new one."
            )
        return awaitable
    return _await(awaitable)


async def _await(awaitable: Awaitable[T]) -> T:
    return await awaitable


def close_orphan(awaitable: Awaitable[Any]) -> None:
    """Close a coroutine that will not run, so that no second warning hides the error."""
    if asyncio.iscoroutine(awaitable):
        awaitable.close()


def _bad_yield(yielded: object) -> TypeError:
    return TypeError(
        f"A coroutine yielded {yielded!r}, which is not an asyncio future. A generator marked with"
        " @async_ may only use 'yield from' with awaitables; to stream a response, return a"
        " generator or an async generator from the view."
    )


class GreenletPool:
    """Idle bridge greenlets of one thread, to be used again.

    A greenlet belongs to the thread that made it. Making one costs more than the whole rest of the
    bridge, because its Python stack has to be allocated anew.

    :param max_idle: how many are kept; those that a burst needed beyond it are let go.
    """

    def __init__(
        self, runtime: Runtime | None, *, on_loop: bool = False, max_idle: int = 1024
    ) -> None:
        self._runtime = runtime
        self._on_loop = on_loop
        self._max_idle = max_idle
        self._idle: list[BridgeGreenlet] = []

    def __len__(self) -> int:
        return len(self._idle)

    def acquire(self) -> BridgeGreenlet:
        """Return an idle greenlet, or a new one."""
        return self._idle.pop() if self._idle else BridgeGreenlet(self._runtime, self._on_loop)

    def release(self, bridge: BridgeGreenlet) -> None:
        """Take a greenlet back whose function has ended."""
        if bridge.dead:
            return
        bridge.gr_context = None
        if len(self._idle) < self._max_idle:
            self._idle.append(bridge)
        else:
            bridge.throw(GreenletExit)

    def close(self) -> None:
        """End all idle greenlets, and from now on each one that comes back."""
        self._max_idle = 0
        while self._idle:
            bridge = self._idle.pop()
            bridge.parent = getcurrent()
            bridge.throw(GreenletExit)
