"""Coroutine functions that an extension calls itself, without Flask's ``ensure_sync``.

It takes the coroutine for the result: a user, a verdict, data for JSON. So each of them is replaced
by a function that waits for it. What a *view* returns needs none of this: an awaitable that comes
to ``Flask.make_response`` is awaited there.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

from flask import Flask
from flask.views import MethodView

from .views import layers


def adapt_foreign_calls(app: Flask) -> None:
    """Adapt class-based views and callbacks, when the app is complete: at its first request."""
    for view in app.view_functions.values():
        for function in layers(view):
            view_class: Any = getattr(function, "view_class", None)
            if inspect.isclass(view_class) and _calls_methods_itself(view_class):
                function.view_class = _with_waiting_methods(app, view_class)
    for manager in _managers(app):
        for name, callback in list(vars(manager).items()):
            if name.endswith("_callback") and inspect.iscoroutinefunction(callback):
                setattr(manager, name, _waiting(app, callback))


def _managers(app: Flask) -> Iterator[Any]:
    """Yield the objects whose ``*_callback`` attributes are functions of the user's.

    Flask-Login and Flask-JWT-Extended have no public way to replace one.
    """
    for manager in (
        getattr(app, "login_manager", None),
        app.extensions.get("flask-jwt-extended"),
    ):
        if manager is not None:
            yield manager


def _calls_methods_itself(view_class: type) -> bool:
    """Whether a class dispatches in a way of its own, as Flask-RESTX's resources do."""
    if not issubclass(view_class, MethodView):
        return False
    dispatch = view_class.dispatch_request
    own = dispatch is not MethodView.dispatch_request and not inspect.iscoroutinefunction(dispatch)
    return own and bool(_coroutine_methods(view_class))


def _coroutine_methods(view_class: Any) -> dict[str, Callable[..., Any]]:
    names = [method.lower() for method in view_class.methods or ()]
    functions = {name: getattr(view_class, name, None) for name in names}
    return {
        name: function
        for name, function in functions.items()
        if function is not None and inspect.iscoroutinefunction(function)
    }


def _with_waiting_methods(app: Flask, view_class: type) -> type:
    """Return a subclass, so that the user's own class stays as it is: a test may await it."""
    methods = {
        name: _waiting(app, function) for name, function in _coroutine_methods(view_class).items()
    }
    names = {"__module__": view_class.__module__, "__qualname__": view_class.__qualname__}
    return types.new_class(
        view_class.__name__, (view_class,), exec_body=lambda body: body.update({**names, **methods})
    )


def _waiting(app: Flask, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return app.ensure_sync(function)(*args, **kwargs)

    return call
