"""Response bodies that are produced over time, as iterators that any WSGI server takes."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any, Final

from flask import request
from flask.globals import request_ctx

#: The environ key of the streams of a request that hold its context.
_OPEN_STREAMS: Final = "flask_aio_core.open_streams"
_END: Final = object()

Wait = Callable[[Awaitable[Any]], Any]


class AsyncStream(Iterator[Any]):
    """An async iterable as a plain iterator: each step waits for the next item.

    Every layer between view and server (Werkzeug's, a middleware's, Sentry's) iterates it without
    knowing. It is closed like a generator: what runs in it ends with its ``finally`` blocks.

    :param wait: waits for an awaitable where the iterator is used.
    """

    def __init__(self, iterable: AsyncIterable[Any], wait: Wait) -> None:
        self._iterator: AsyncIterator[Any] = aiter(iterable)
        self._wait = wait
        self._closed = False

    def __next__(self) -> Any:
        if self._closed:
            raise StopIteration
        item = self._wait(_next_or_end(self._iterator))
        if item is _END:
            self._closed = True
            raise StopIteration
        return item

    def close(self) -> None:
        """Close the async iterable, as ``async for`` over a generator that is left would not."""
        if self._closed:
            return
        self._closed = True
        aclose = getattr(self._iterator, "aclose", None)
        if aclose is not None:
            self._wait(aclose())


async def _next_or_end(iterator: AsyncIterator[Any]) -> Any:
    # StopAsyncIteration can leave neither a coroutine nor a future.
    return await anext(iterator, _END)


class ContextStream(Iterator[Any]):
    """Keeps the request context until the stream has ended; teardown runs then, once.

    ``flask.stream_with_context`` instead pushes the context again when the stream starts, after
    teardown has run, and has it run a second time.
    """

    def __init__(self, iterable: Iterable[Any]) -> None:
        self._iterator = iter(iterable)
        self._closed = False
        streams: list[ContextStream] = request.environ.setdefault(_OPEN_STREAMS, [])
        # Where a response was made and dropped for another one, the first stream holds it for both.
        self._held = None if streams else _HeldContext()
        streams.append(self)

    def __next__(self) -> Any:
        try:
            return next(self._iterator)
        except BaseException as error:
            self._close(None if isinstance(error, StopIteration) else error)
            raise

    def close(self) -> None:
        """Close the iterator, then let go of the context."""
        self._close(None)

    def _close(self, error: BaseException | None) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            close = getattr(self._iterator, "close", None)
            if close is not None:
                close()
        finally:
            if self._held is not None:
                self._held.release(error)
                self._held = None


class _HeldContext:
    """Puts off the one pop of the request context with which Flask ends its part of a request."""

    def __init__(self) -> None:
        self._context: Any = request_ctx._get_current_object()  # type: ignore[attr-defined]
        self._context.pop = self._put_off
        self._was_popped = False
        self._error: BaseException | None = None

    def _put_off(self, *error: BaseException | None) -> None:
        del self._context.pop
        self._was_popped = True
        self._error = error[0] if error else sys.exc_info()[1]

    def release(self, error: BaseException | None) -> None:
        """Pop the context if Flask has wanted to; otherwise leave that to Flask again."""
        context = self._context
        if self._was_popped:
            error, self._error = error or self._error, None
            context.pop(error)
        else:
            del context.pop
        del self._context


def close_response(iterable: Iterable[Any], environ: dict[str, Any]) -> None:
    """Close what the application has returned (PEP 3333), and every stream of the request."""
    try:
        close = getattr(iterable, "close", None)
        if close is not None:
            close()
    finally:
        close_open_streams(environ)


def close_open_streams(environ: dict[str, Any]) -> None:
    """Close the streams whose response was dropped, as by an after_request function that fails."""
    streams: list[ContextStream] = environ.pop(_OPEN_STREAMS, [])
    for stream in reversed(streams):
        stream.close()


def async_iterable_in(value: object) -> tuple[AsyncIterable[Any] | None, bool]:
    """Return the async iterable that a response body is, and whether it asks for the context.

    ``flask.stream_with_context`` does not know async generators: it takes one for a function to
    decorate. What it then returns is recognised here, so that it can be used with them too.
    """
    if isinstance(value, AsyncIterable):
        return value, False
    wrapped = getattr(value, "__wrapped__", None)
    return (wrapped, True) if isinstance(wrapped, AsyncIterable) else (None, False)
