"""What the libraries log, in gunicorn's error log."""

from __future__ import annotations

import logging
from typing import Final

from gunicorn.glogging import Logger

#: The loggers of what serves the app; the app's own writes to ``wsgi.errors``.
_NAMES: Final = ("aiohttp", "asyncio", "flask_aio_core", "flask_aio_ws")


class _Forwarder(logging.Handler):
    """Passes records on to another logger, with its level and handlers."""

    def __init__(self, target: logging.Logger) -> None:
        super().__init__()
        self._target = target

    def emit(self, record: logging.LogRecord) -> None:
        if self._target.isEnabledFor(record.levelno):
            self._target.handle(record)


def forward_logs(log: Logger) -> None:
    """Send to the error log what nobody else has asked for: it would go to stderr, unformatted."""
    forwarder = _Forwarder(log.error_log)
    for name in _NAMES:
        logger = logging.getLogger(name)
        if not logger.hasHandlers():
            logger.addHandler(forwarder)
            if logger.level == logging.NOTSET:
                logger.setLevel(log.error_log.level)
