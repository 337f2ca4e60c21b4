"""The plain Flask application behind a2wsgi, for ASGI servers."""

from __future__ import annotations

from a2wsgi import WSGIMiddleware

from .plain_flask import make_app

app = WSGIMiddleware(make_app(), workers=32)  # type: ignore[arg-type]
