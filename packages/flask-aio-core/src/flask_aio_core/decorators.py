"""``async_``: runs a view on the event loop that is not ``async def``, and sets its options."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, TypeVar, overload

from .views import OPTIONS_ATTRIBUTE, ViewOptions

F = TypeVar("F", bound=Callable[..., Any])


@overload
def async_(function: F, /) -> F: ...


@overload
def async_(
    *, cancel_on_disconnect: bool | None = None, hooks_in_thread: bool | None = None
) -> Callable[[F], F]: ...


def async_(
    function: Callable[..., Any] | None = None,
    /,
    *,
    cancel_on_disconnect: bool | None = None,
    hooks_in_thread: bool | None = None,
) -> Any:
    """Run a view on the event loop.

    ``async def`` needs it only for its options. A generator function that waits with
    ``yield from``, the style before ``async def``, becomes a coroutine function; a plain function,
    which must then never block, is called on the loop.

    :param cancel_on_disconnect: whether the view is cancelled when its client goes away; the
        default is ``AIO_CANCEL_ON_DISCONNECT``. A stream always ends then.
    :param hooks_in_thread: whether the request's hooks run in a worker thread, which waits while
        the view runs on the loop; the default is ``AIO_HOOKS_IN_THREAD``.
    """
    options = ViewOptions(cancel_on_disconnect, hooks_in_thread)
    if function is None:
        return lambda given: _mark(given, options)
    return _mark(function, options)


def _mark(function: Callable[..., Any], options: ViewOptions) -> Callable[..., Any]:
    if not callable(function):
        raise TypeError(f"async_ decorates functions, not {function!r}.")
    marked = _as_coroutine_function(function)
    setattr(marked, OPTIONS_ATTRIBUTE, options)
    return marked


def _as_coroutine_function(function: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.isasyncgenfunction(function):

        @wraps(function)
        def stream(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return stream

    if inspect.iscoroutinefunction(function):

        @wraps(function)
        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            return await function(*args, **kwargs)

        return coroutine

    if inspect.isgeneratorfunction(function):
        legacy = _legacy_coroutine_function(function)

        @wraps(function)
        async def generator(*args: Any, **kwargs: Any) -> Any:
            return await legacy(*args, **kwargs)

        return generator

    @wraps(function)
    async def plain(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return plain


def _legacy_coroutine_function(function: Any) -> Callable[..., Any]:
    """Make a generator function one whose generators can be awaited, and may await coroutines."""
    if isinstance(function, partial):
        legacy = _legacy_coroutine_function(function.func)
        return partial(legacy, *function.args, **function.keywords)
    if isinstance(function, types.MethodType):
        return types.MethodType(_legacy_coroutine_function(function.__func__), function.__self__)
    # types.coroutine changes the function it is given; the user's own is left as it is.
    copy = types.FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return types.coroutine(copy)
