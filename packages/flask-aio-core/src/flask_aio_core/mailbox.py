"""How a thread that waits for the event loop is told of the result, and lent for blocking calls."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from typing import Any


class Mailbox:
    """Where a thread sleeps while the event loop runs an awaitable on its behalf.

    The coroutine that runs meanwhile may itself want a blocking function to run in a thread
    (:func:`.in_thread`). It is given the one that waits: no second thread is held, so no number of
    nested calls can use the worker threads up, and a function that must run in the request's own
    thread (sqlite3) does.
    """

    __slots__ = ("_messages",)

    def __init__(self) -> None:
        self._messages: SimpleQueue[Callable[[], None] | tuple[Any, BaseException | None]] = (
            SimpleQueue()
        )

    def call(self, function: Callable[[], None]) -> None:
        """Have the waiting thread run a function, which must not raise."""
        self._messages.put(function)

    def deliver(self, result: Any, error: BaseException | None) -> None:
        """End the wait with a result or an error."""
        self._messages.put((result, error))

    def wait(self) -> Any:
        """Sleep until the result is there; return it, or raise the error."""
        while True:
            message = self._messages.get()
            if callable(message):
                message()
                continue
            result, error = message
            if error is None:
                return result
            try:
                raise error
            finally:
                del error, message
