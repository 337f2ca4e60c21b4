"""The settings, one class for each way to run the application."""

from __future__ import annotations

import os
from typing import Any


class Config:
    """What holds everywhere."""

    SECRET_KEY: str | None = None
    SQLALCHEMY_DATABASE_URI = os.environ.get("DATABASE_URL", "sqlite:///toolshed.sqlite3")
    SESSION_COOKIE_SAMESITE = "Lax"
    REMEMBER_COOKIE_SAMESITE = "Lax"
    REMEMBER_COOKIE_HTTPONLY = True
    #: Bytes of a whole request, and so of an upload.
    MAX_CONTENT_LENGTH = 4 * 1024 * 1024
    #: A folder; without one, "uploads" in the instance folder.
    UPLOADS: str | None = None
    THINGS_PER_PAGE = 12
    #: Longest loan, in days.
    LONGEST_LOAN = 60
    #: How many proxies stand in front, whose X-Forwarded-* headers are believed.
    PROXIES = 0
    #: Names and addresses of shops to ask for prices; "{name}" stands for what is looked for.
    PRICE_SHOPS: dict[str, str] = {}  # noqa: RUF012 -- settings are never changed in place
    #: Seconds that one shop may take.
    PRICE_TIMEOUT = 5.0


class Local(Config):
    """On one's own machine, over plain HTTP."""


class Production(Config):
    """Behind a proxy that speaks HTTPS."""

    SESSION_COOKIE_SECURE = True
    REMEMBER_COOKIE_SECURE = True
    PREFERRED_URL_SCHEME = "https"
    PROXIES = 1


CONFIGS: dict[str, type[Any]] = {"local": Local, "production": Production}
