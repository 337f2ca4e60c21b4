"""Which side a request runs on: the event loop, or a worker thread.

The whole request stays on one side, hooks and teardown included, so this is decided before the app
is called, by matching the URL. Whatever is uncertain runs in a thread: there a coroutine is still
run on the loop, while the thread waits, so that a wrong guess costs speed and nothing else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from flask import Flask

#: The attribute in which async_ keeps the options of a view.
OPTIONS_ATTRIBUTE: Final = "__flask_aio_options__"


class ViewOptions(NamedTuple):
    """What :func:`.async_` was told; ``None`` stands for the app's configuration."""

    cancel_on_disconnect: bool | None = None
    hooks_in_thread: bool | None = None


class ViewPlan(NamedTuple):
    """How the requests for one view function are run."""

    #: Whether the view is a coroutine or an async generator function.
    is_coroutine: bool
    options: ViewOptions


#: For how many URLs the plan is remembered. The rules are fixed once the first request has come.
_URLS_KEPT: Final = 4096
_SYNCHRONOUS: Final = ViewPlan(False, ViewOptions())


class ViewPlans:
    """The plans of one app's views, made when each is first needed."""

    def __init__(self) -> None:
        self._by_url: dict[tuple[str, str, str], ViewPlan] = {}
        self._plans: dict[tuple[Callable[..., Any], str], ViewPlan] = {}

    def for_environ(self, app: Flask, environ: dict[str, Any]) -> ViewPlan:
        """Return the plan for the view that the environ's URL and method lead to."""
        if "HTTP_UPGRADE" in environ:
            return self._match(app, environ)  # Rules may be for such requests, or for others, only.
        by_host = app.url_map.host_matching or app.subdomain_matching
        url = (
            environ["REQUEST_METHOD"],
            environ["PATH_INFO"],
            environ.get("HTTP_HOST", "") if by_host else "",
        )
        plan = self._by_url.get(url)
        if plan is None:
            plan = self._match(app, environ)
            if len(self._by_url) >= _URLS_KEPT:
                self._by_url.clear()
            self._by_url[url] = plan
        return plan

    def _match(self, app: Flask, environ: dict[str, Any]) -> ViewPlan:
        try:
            # The request object must leave no trace in the environ: Flask makes its own.
            request = app.request_class(environ, populate_request=False)
            adapter = app.create_url_adapter(request)
            rule, _ = adapter.match(return_rule=True)  # type: ignore[union-attr]
        except Exception:
            # No such page, a redirect, or a converter that needs the request: Flask finds out.
            return _SYNCHRONOUS
        return self.for_endpoint(app, rule.endpoint, environ["REQUEST_METHOD"])

    def for_endpoint(self, app: Flask, endpoint: str | None, method: str) -> ViewPlan:
        """Return the plan for an endpoint's view function."""
        view = app.view_functions.get(endpoint)  # type: ignore[arg-type]
        if view is None:
            return _SYNCHRONOUS
        try:
            return self._plans[view, method]
        except KeyError:
            plan = self._plans[view, method] = make_plan(view, method)
            return plan
        except TypeError:  # A callable object that cannot be hashed.
            return make_plan(view, method)


def make_plan(view: Callable[..., Any], method: str) -> ViewPlan:
    """Look at a view function, and at what its decorators wrap, down to the user's own."""
    is_coroutine = False
    cancel: bool | None = None
    hooks: bool | None = None
    for function in layers(view, method):
        if _is_coroutine_function(function):
            is_coroutine = True
        options = getattr(function, OPTIONS_ATTRIBUTE, ViewOptions())
        cancel = options.cancel_on_disconnect if cancel is None else cancel
        hooks = options.hooks_in_thread if hooks is None else hooks
    return ViewPlan(is_coroutine, ViewOptions(cancel, hooks))


def layers(view: Any, method: str | None = None) -> Iterator[Any]:
    """Yield a view and all that it wraps, from the outside to the inside.

    :param method: for class-based views, go on into what answers this method.
    """
    seen: set[int] = set()
    pending = [view]
    while pending:
        function = pending.pop()
        if id(function) in seen:
            continue
        seen.add(id(function))
        yield function
        view_class = getattr(function, "view_class", None)
        if view_class is not None and method is not None:
            pending.append(_method_of(view_class, method))
        for attribute in ("__wrapped__", "func"):  # functools.wraps, functools.partial
            inner = getattr(function, attribute, None)
            if callable(inner):
                pending.append(inner)


def _method_of(view_class: type, method: str) -> Any:
    """Return the function of a View or MethodView that answers a method."""
    found = getattr(view_class, method.lower(), None)
    if found is None and method == "HEAD":
        found = getattr(view_class, "get", None)
    return found if found is not None else getattr(view_class, "dispatch_request", None)


def _is_coroutine_function(function: Any) -> bool:
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return True
    if inspect.isroutine(function) or inspect.isclass(function) or function is None:
        return False
    if not callable(function):
        return False
    call = type(function).__call__  # An object with "async def __call__".
    return inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call)
