"""Where the extension hooks into a Flask app: four of Flask's own methods, on the instance.

``async_to_sync`` is Flask's documented override point; ``make_response``, ``preprocess_request``
and ``create_url_adapter`` are public methods that Flask calls on itself. Extensions that call them
get the same behaviour.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Final

from flask import Flask, has_request_context, request
from werkzeug.wrappers import Response as BaseResponse

from .bridge import can_suspend, current_context, suspend
from .foreign_calls import adapt_foreign_calls
from .state import AioState
from .streams import AsyncStream, ContextStream, async_iterable_in
from .url_adapters import UrlAdapters

#: What views return most: neither a stream nor anything to wait for.
_COMPLETE: Final = frozenset({bytes, dict, list, str})


def install_hooks(app: Flask, state: AioState) -> None:
    """Have the app run its coroutines on the event loop, and take async iterables as responses."""

    def wait(awaitable: Any) -> Any:
        if can_suspend():
            return suspend(awaitable)
        return state.wait(awaitable, current_context())

    def async_to_sync(
        function: Callable[..., Coroutine[Any, Any, Any]],
    ) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            return wait(function(*args, **kwargs))

        # What functools.wraps does is too much for each request.
        call.__wrapped__ = function  # type: ignore[attr-defined]
        try:
            call.__name__ = function.__name__
            call.__qualname__ = function.__qualname__
        except AttributeError:  # An object that can be called.
            return call
        call.__module__ = function.__module__
        call.__doc__ = function.__doc__
        return call

    def keeps_context() -> bool:
        """Whether what the current view streams sees the request context unasked."""
        if not has_request_context():
            return False
        plan = state.plans.for_endpoint(app, request.endpoint, request.method)
        return plan.is_coroutine

    def adapt(body: Any) -> Any:
        """Make a stream an iterator that WSGI servers take, and that sees the request."""
        iterable, wants_context = async_iterable_in(body)
        if iterable is not None:
            body = AsyncStream(iterable, wait)
        elif not inspect.isgenerator(body):
            return body
        return ContextStream(body) if wants_context or keeps_context() else body

    make_plain_response = app.make_response

    def make_response(rv: Any) -> Any:
        if type(rv) in _COMPLETE:
            return make_plain_response(rv)
        body, *rest = rv if isinstance(rv, tuple) and rv else (rv,)
        if inspect.isawaitable(body):
            # An extension has called a coroutine view without Flask's ensure_sync.
            return make_response(_with_body(rv, wait(body), rest))
        if isinstance(body, BaseResponse):
            body.response = adapt(body.response)
        else:
            stream = adapt(body)
            if stream is not body:
                rv = _with_body(rv, stream, rest)
        return make_plain_response(rv)

    preprocess_plainly = app.preprocess_request

    def preprocess_first_request(*args: Any, **kwargs: Any) -> Any:
        # Flask calls these functions, alone among its hooks, without ensure_sync. None can be added
        # after the first request has come.
        for functions in app.url_value_preprocessors.values():
            functions[:] = [app.ensure_sync(function) for function in functions]
        adapt_foreign_calls(app)
        if vars(app).get("preprocess_request") is preprocess_first_request:
            app.preprocess_request = preprocess_plainly  # type: ignore[method-assign]
        return preprocess_plainly(*args, **kwargs)

    app.create_url_adapter = UrlAdapters(app).create  # type: ignore[method-assign]
    app.async_to_sync = async_to_sync  # type: ignore[method-assign, assignment]
    app.make_response = wraps(make_plain_response)(make_response)  # type: ignore[method-assign]
    app.preprocess_request = preprocess_first_request  # type: ignore[method-assign]


def _with_body(rv: Any, body: Any, rest: list[Any]) -> Any:
    return (body, *rest) if isinstance(rv, tuple) else body
