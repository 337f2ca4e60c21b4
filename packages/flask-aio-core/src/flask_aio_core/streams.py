"""Response bodies that are produced over time, as iterators that any WSGI server takes."""

from __future__ import annotations

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

    ``flask.stream_with_context`` pushes the context again when the stream starts, after teardown
    has run, and has it run a second time. Here the context is pushed once more before the view's
    response leaves Flask, so that Flask's own pop is not the last.
    """

    def __init__(self, iterable: Iterable[Any]) -> None:
        self._iterator = iter(iterable)
        self._error: BaseException | None = None
        self._context = request_ctx._get_current_object()  # type: ignore[attr-defined]
        self._context.push()
        self._closed = False
        request.environ.setdefault(_OPEN_STREAMS, []).append(self)

    def __next__(self) -> Any:
        try:
            return next(self._iterator)
        except StopIteration:
            raise
        except BaseException as error:
            self._error = error
            raise

    def close(self) -> None:
        """Close the iterator, then pop the context."""
        if self._closed:
            return
        self._closed = True
        try:
            close = getattr(self._iterator, "close", None)
            if close is not None:
                close()
        finally:
            error, self._error = self._error, None
            self._context.pop(error)
            del self._context


def close_open_streams(environ: dict[str, Any]) -> None:
    """Close the streams whose response was dropped, as by an after_request function that fails."""
    streams: list[ContextStream] = environ.pop(_OPEN_STREAMS, [])
    for stream in reversed(streams):
        stream.close()


def async_iterable_in(value: object) -> AsyncIterable[Any] | None:
    """Return the async iterable that a response body is, if it is one.

    ``flask.stream_with_context`` does not know async generators: it takes one for a function to
    decorate. What it then returns is recognised here, so that it can be used with them too.
    """
    if isinstance(value, AsyncIterable):
        return value
    wrapped = getattr(value, "__wrapped__", None)
    return wrapped if isinstance(wrapped, AsyncIterable) else None
