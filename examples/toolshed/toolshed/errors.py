"""Pages, or JSON for the API, for what went wrong."""

from __future__ import annotations

from flask import Flask, jsonify, render_template, request
from flask.typing import ResponseReturnValue
from flask_wtf.csrf import CSRFError
from werkzeug.exceptions import HTTPException, InternalServerError

from .extensions import db

_TEXTS = {
    403: ("Not yours", "You may not do that."),
    404: (
        "Nothing here",
        "There is no such page. Perhaps somebody took the thing out of the shed.",
    ),
    413: ("Too large", "A file may have up to 4 MB."),
    500: ("Something broke", "That was our mistake, and it has been written down."),
}


def init_app(app: Flask) -> None:
    app.register_error_handler(HTTPException, show)
    app.register_error_handler(CSRFError, expired)
    app.register_error_handler(InternalServerError, broken)


def show(error: HTTPException) -> ResponseReturnValue:
    code = error.code or 500
    if error.response is not None or code < 400:
        return error
    title, text = _TEXTS.get(code, (error.name, error.description or ""))
    if request.path.startswith("/api/"):
        # What abort() was told is for the client to read.
        answer = jsonify(error=error.name, message=error.description)
        answer.status_code = code
        for name, value in error.get_headers():
            if name not in ("Content-Type", "Content-Length"):
                answer.headers[name] = value
        return answer
    return render_template("error.html", title=title, text=text, code=code), code


def expired(error: CSRFError) -> ResponseReturnValue:
    text = "The form was too old, or cookies are blocked. Go back, load the page anew, try again."
    return render_template("error.html", title="Try again", text=text, code=400), 400


def broken(error: InternalServerError) -> ResponseReturnValue:
    db.session.rollback()
    return show(error)
