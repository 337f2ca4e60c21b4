"""What every template can use."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

from flask import Flask
from flask_login import current_user
from jinja2.utils import urlize
from markupsafe import Markup

from .extensions import db
from .models import Category, Note, State, now


def ago(moment: datetime) -> str:
    """Say how long ago something was, in the largest unit that fits."""
    passed = now() - moment
    for unit, size in (
        ("year", timedelta(days=365)),
        ("month", timedelta(days=30)),
        ("day", timedelta(days=1)),
        ("hour", timedelta(hours=1)),
        ("minute", timedelta(minutes=1)),
    ):
        if passed >= size:
            return f"{plural(passed // size, unit)} ago"
    return "just now"


def day(value: date) -> str:
    """Write a date, with the year unless it is this one."""
    return f"{value.day} {value:%B %Y}" if value.year != now().year else f"{value.day} {value:%B}"


def plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def size(number: int) -> str:
    """Write a number of bytes for people."""
    return f"{number / 1_000_000:.1f} MB" if number >= 1_000_000 else f"{-(-number // 1000)} kB"


def paragraphs(text: str) -> Markup:
    """Make a paragraph of each block of lines, and links of addresses; the rest is escaped."""

    def line(text: str) -> Markup:
        return Markup(urlize(text, rel="noopener nofollow"))

    blocks = [block.strip() for block in text.split("\n\n") if block.strip()]
    return Markup("\n").join(
        Markup("<p>{}</p>").format(Markup("<br>").join(map(line, block.split("\n"))))
        for block in blocks
    )


def init_app(app: Flask) -> None:
    for function in (ago, day, plural, size, paragraphs):
        app.add_template_filter(function)
    app.jinja_env.globals.update(Category=Category, State=State)

    @app.context_processor
    def inbox() -> dict[str, Any]:
        def unread() -> int:
            if not current_user.is_authenticated:
                return 0
            notes = db.select(db.func.count(Note.id))
            return db.session.scalar(notes.filter_by(member_id=current_user.id, is_read=False)) or 0

        return {"unread": unread, "can_compare": bool(app.config["PRICE_SHOPS"])}
