"""``await_`` and ``in_thread``: from synchronous code to the event loop, and back to a thread."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

from greenlet import getcurrent

from .bridge import BridgeGreenlet, can_suspend, close_orphan, current_context, drive, suspend
from .event_loop import running_loop
from .exceptions import AioError, CannotSuspend
from .state import current_runtime
from .threads import WorkerCall

P = ParamSpec("P")
T = TypeVar("T")


def await_(awaitable: Awaitable[T]) -> T:
    """Wait for an awaitable in synchronous code, and return its result.

    It works wherever synchronous code runs: in a view, a hook, a template, an extension's callback,
    a command of the CLI. The awaitable runs on the server's event loop. In a coroutine request only
    this request waits; in a worker thread, that thread waits.

    :raises CannotSuspend: the code runs in an asyncio task that it would block: use ``await``.
    :raises AioError: the coroutine was awaited before.
    :raises TypeError: the argument cannot be awaited.
    """
    if not inspect.isawaitable(awaitable):
        raise TypeError(
            f"await_ was given {awaitable!r}, which cannot be awaited. Give it the result of"
            " calling a coroutine function: await_(fetch())."
        )
    if can_suspend():
        return suspend(awaitable)
    if running_loop() is not None:
        close_orphan(awaitable)
        raise CannotSuspend(
            "await_ was called in a coroutine that runs as an asyncio task of its own, which it"
            " cannot suspend. Use 'await' there. (A task made by create_task, gather or a TaskGroup"
            " is such a one; a view, a hook and a task made by aio.spawn are not.)"
        )
    try:
        runtime = current_runtime()
    except AioError:
        close_orphan(awaitable)
        raise
    return runtime.wait(awaitable, current_context())


def in_thread(function: Callable[P, T]) -> Callable[P, T]:
    """Make a blocking function leave the event loop free: it runs in a worker thread.

    Called in a coroutine request, the wrapper waits, as a plain call does (there is nothing to
    await), while the loop serves others. The function sees the request, ``g`` and every context
    variable of its caller, and what it sets there stays. Called in a thread it just runs.

    :raises TypeError: the function is a coroutine function or a generator function.
    :raises CannotSuspend: the call comes from an asyncio task that it would block; use
        ``await asyncio.to_thread(...)`` there.
    :raises werkzeug.exceptions.ServiceUnavailable: all threads are busy and the queue is full.
    """
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"in_thread is for blocking functions, but {_name(function)} is asynchronous:"
            " await it, or call it through await_."
        )
    if inspect.isgeneratorfunction(function):
        raise TypeError(
            f"in_thread is for functions, but {_name(function)} is a generator: its body"
            " would run wherever it is iterated."
        )

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        bridge = getcurrent()
        if not isinstance(bridge, BridgeGreenlet):
            if running_loop() is not None:
                raise CannotSuspend(
                    f"{_name(function)}, wrapped by in_thread, was called in an asyncio"
                    " task that it would block. Use 'await asyncio.to_thread(...)' there."
                )
            return function(*args, **kwargs)
        if not bridge.on_loop:
            return function(*args, **kwargs)
        return _leave_loop(bridge, partial(function, *args, **kwargs))

    return call


def _name(function: Callable[..., Any]) -> str:
    return repr(getattr(function, "__qualname__", function))


def _leave_loop(bridge: BridgeGreenlet, function: Callable[[], T]) -> T:
    runtime = bridge.runtime
    assert runtime is not None  # A greenlet of a loop always has one.
    call: WorkerCall[Any] = WorkerCall(runtime, function, current_context())
    if bridge.mailbox is not None:
        # A thread waits for this coroutine already: it is the request's own.
        bridge.mailbox.call(call.run)
    else:
        runtime.threads.submit(call)
    drive(call.wait())
    return call.result()  # type: ignore[no-any-return]
