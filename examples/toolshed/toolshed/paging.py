"""One page of a long list."""

from __future__ import annotations

from typing import Any

from flask import abort, current_app, request
from flask_sqlalchemy.pagination import Pagination

from .extensions import db


def paginate(statement: Any) -> Pagination:
    """Return the page that ``?page=`` asks for; one that does not exist is a 404."""
    page = request.args.get("page", 1, type=int)
    if not 1 <= page <= 100_000:  # The database cannot count beyond some number.
        abort(404)
    return db.paginate(
        statement, page=page, per_page=current_app.config["THINGS_PER_PAGE"], max_per_page=None
    )
