"""Werkzeug's interactive debugger around an app, while the development server runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flask import Flask
from werkzeug.debug import DebuggedApplication


@contextmanager
def debugging(app: Flask, host: str, *, enabled: bool) -> Iterator[None]:
    """Wrap the app's WSGI callable in the debugger for the duration of the block.

    :param host: it may be used from this host, besides the local ones.
    """
    if not enabled:
        yield
        return
    plain = app.wsgi_app
    debugged = DebuggedApplication(plain, evalex=True)
    debugged.trusted_hosts.append(host)
    app.wsgi_app = debugged  # type: ignore[method-assign]
    try:
        yield
    finally:
        app.wsgi_app = plain  # type: ignore[method-assign]
