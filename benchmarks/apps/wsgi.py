"""The plain Flask application, for WSGI servers."""

from __future__ import annotations

from .plain_flask import make_app

app = make_app()
