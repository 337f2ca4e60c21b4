"""What happens around every request."""

from __future__ import annotations

import time
from datetime import timedelta

from flask import Flask, Response, g
from flask_login import current_user, user_logged_in

from .extensions import db
from .models import Member, now

_POLICY = "; ".join(
    (
        "default-src 'none'",
        "style-src 'self'",
        "img-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)


def init_app(app: Flask) -> None:
    @app.before_request
    def begin() -> None:
        g.begun = time.perf_counter()

    @app.after_request
    def finish(response: Response) -> Response:
        response.headers.setdefault("Content-Security-Policy", _POLICY)
        response.headers.setdefault("Referrer-Policy", "same-origin")
        response.headers["X-Content-Type-Options"] = "nosniff"
        if current_user and current_user.is_authenticated:
            response.headers.setdefault("Cache-Control", "private, no-store")
        if "begun" in g:
            took = (time.perf_counter() - g.begun) * 1000
            response.headers["Server-Timing"] = f"app;dur={took:.1f}"
        return response

    @user_logged_in.connect_via(app)
    def note_visit(_: Flask, user: Member) -> None:
        if user.seen is None or now() - user.seen > timedelta(minutes=1):
            user.seen = now()
            db.session.commit()
