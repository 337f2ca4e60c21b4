"""Werkzeug's interactive debugger around an app, while the development server runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from flask import Flask
from werkzeug.debug import DebuggedApplication

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


@contextmanager
def debugging(app: Flask, host: str, *, enabled: bool) -> Iterator[None]:
    """Wrap the app's WSGI callable in the debugger for the duration of the block.

    :param host: it may be used from this host, besides the local ones.
    """
    if not enabled:
        yield
        return
    plain = app.wsgi_app
    debugged = DebuggedApplication(start_with_body(plain), evalex=True)
    debugged.trusted_hosts.append(host)
    app.wsgi_app = debugged  # type: ignore[method-assign]
    try:
        yield
    finally:
        app.wsgi_app = plain  # type: ignore[method-assign]


def start_with_body(app: WSGIApplication) -> WSGIApplication:
    """Return an app that calls ``start_response`` only when its body begins.

    The debugger calls it again, without ``exc_info``, to show an error. That is refused after the
    app has called it, so that the page of a stream which fails at once would be lost.
    """

    def call(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        held: tuple[Any, ...] | None = None
        write_now: Any = None

        def hold(*arguments: Any) -> Any:
            nonlocal held
            held = arguments
            return write

        def start() -> None:
            nonlocal held, write_now
            if held is not None:
                arguments, held = held, None
                write_now = start_response(*arguments)

        def write(data: bytes) -> None:
            start()
            write_now(data)

        iterable: Any = app(environ, hold)
        with closing(iterable) if hasattr(iterable, "close") else nullcontext():
            for chunk in iterable:
                if chunk:
                    start()
                yield chunk
            start()

    return call
