"""The access log of ``aio.run``: a line for the eye, and its fields for machines."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import Any, Final

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger
from flask import Flask

from .plugins import REQUEST_ID_KEY, SIDE_KEY

#: Where a request keeps its environ until it is logged.
_ENVIRON: Final[Any] = (
    web.RequestKey("flask_aio_core.environ", dict)  # aiohttp 3.14 warns of other keys.
    if hasattr(web, "RequestKey")
    else "flask_aio_core.environ"
)

DEFAULT_FORMAT: Final = (
    '%(remote_address)s [%(request_start_time)s] "%(first_request_line)s"'
    " %(response_status)d %(response_size)d %(duration).3fs %(side)s"
)


class AccessLogger(AbstractAccessLogger):
    """Logs each request with its fields as attributes of the record.

    The format is one of :mod:`logging`, with the names of the fields; any other name is one of the
    WSGI environ. Where aiohttp's own access log has a field, it has the same name here.
    """

    @property
    def enabled(self) -> bool:
        return self.logger.isEnabledFor(logging.INFO)

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        environ: dict[str, Any] = request.pop(_ENVIRON, {})  # The two refer to each other.
        fields = _fields(request, response, time, environ)
        self.logger.info("%s", self.log_format % _Values(fields, environ), extra=fields)


def keep_environ(request: web.BaseRequest, environ: dict[str, Any]) -> None:
    """Remember the environ of a request until it is logged."""
    request[_ENVIRON] = environ


def check_access_log_format(app: Flask) -> None:
    """Refuse a format that would fail with every request.

    :raises ValueError: it does.
    """
    log_format = app.config["AIO_ACCESS_LOG_FORMAT"]
    try:
        log_format % _Values(_SAMPLE, {})
        if not isinstance(log_format, str):
            raise TypeError("it is not a string")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            "app.config['AIO_ACCESS_LOG_FORMAT'] must be a format like '%(request_method)s"
            f" %(response_status)d', not {log_format!r}: {error}."
        ) from None


class _Values(dict[str, Any]):
    """The fields of a log line, and behind them the environ."""

    def __init__(self, fields: dict[str, Any], environ: dict[str, Any]) -> None:
        super().__init__(fields)
        self._environ = environ

    def __missing__(self, name: str) -> str:
        return _printable(str(self._environ.get(name, "-")))


def _fields(
    request: web.BaseRequest, response: web.StreamResponse, time: float, environ: dict[str, Any]
) -> dict[str, Any]:
    begun = datetime.now().astimezone() - timedelta(seconds=time)
    method, target = request.method, _printable(request.raw_path)
    version = request.version
    return {
        "remote_address": environ.get("REMOTE_ADDR") or request.remote or "-",
        "request_start_time": begun.strftime("%d/%b/%Y:%H:%M:%S %z"),
        "first_request_line": f"{method} {target} HTTP/{version.major}.{version.minor}",
        "request_method": method,
        "request_path": target.partition("?")[0],
        "response_status": response.status,
        "response_size": response.body_length,
        "duration": time,
        "side": environ.get(SIDE_KEY, "-"),
        "request_id": environ.get(REQUEST_ID_KEY, "-"),
        "referer": _printable(request.headers.get("Referer", "-")),
        "user_agent": _printable(request.headers.get("User-Agent", "-")),
    }


def _printable(text: str) -> str:
    """Escape what could forge a line of the log, or command the terminal that shows it."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


_SAMPLE: Final[dict[str, Any]] = {
    "response_status": 200,
    "response_size": 0,
    "duration": 0.0,
}
