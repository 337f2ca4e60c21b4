"""aiohttp's access log, written by gunicorn's logger in gunicorn's format."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger
from gunicorn.glogging import Logger

from .request import Request, Response, drop_environ, kept_environ


class AccessLogger(AbstractAccessLogger):
    """Hands each request to the ``logger_class`` of gunicorn: formats, atoms and statsd are its.

    :param logger: gunicorn's.
    """

    def __init__(self, logger: Any, log_format: str) -> None:
        super().__init__(logger, log_format)
        # Its stubs want gunicorn's own requests and responses.
        self._logger: Any = logger

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        self._logger.access(
            Response(response, request.method),
            Request(request),
            kept_environ(request),
            timedelta(seconds=time),
        )
        drop_environ(request)


def is_wanted(logger: Logger) -> bool:
    """Whether the logger does anything with a request: writes it, or counts it as statsd's does."""
    return bool(logger.access_log_enabled) or type(logger).access is not Logger.access
