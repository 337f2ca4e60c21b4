"""The ``AIO_*`` keys of ``app.config`` and their defaults: the one list of them."""

from __future__ import annotations

from typing import Any, Final

from flask import Flask

from .access_log import DEFAULT_FORMAT, check_access_log_format
from .request_id import check_request_ids

DEFAULTS: Final[dict[str, Any]] = {
    # Worker threads for synchronous views and in_thread; started when they are needed.
    "AIO_WORKER_THREADS": 32,
    # Calls that may wait for a worker thread; over it a request is answered with 503.
    "AIO_WORKER_QUEUE": 1000,
    # Seconds told to the client in Retry-After with that 503.
    "AIO_RETRY_AFTER": 5,
    # Seconds the loop may be late because worker threads compute, before fewer of them run at once;
    # None lets all run.
    "AIO_MAX_LAG": 0.01,
    # Seconds that a thread may keep the interpreter lock when others want it; None leaves it alone.
    "AIO_SWITCH_INTERVAL": 0.001,
    # Allocations between two garbage collections, at least; None leaves the collector alone.
    "AIO_GC_THRESHOLD": 5000,
    # Bytes of a request body that are read into memory before the app is called.
    "AIO_MAX_BUFFERED_BODY": 64 * 1024,
    # Seconds that running requests get to end when the server stops.
    "AIO_SHUTDOWN_GRACE": 30.0,
    # The same for a restart by the reloader.
    "AIO_RELOAD_GRACE": 1.0,
    # Seconds that tasks made by aio.spawn get to end when the server stops.
    "AIO_BACKGROUND_GRACE": 5.0,
    # Seconds that an idle keep-alive connection is held by aio.run.
    "AIO_KEEPALIVE": 75.0,
    # Whether a view that is not streaming is cancelled when its client goes away.
    "AIO_CANCEL_ON_DISCONNECT": False,
    # Whether the hooks of coroutine requests run in a worker thread.
    "AIO_HOOKS_IN_THREAD": False,
    # Seconds the loop may be blocked before the watchdog names the function; None turns it off.
    "AIO_SLOW_CALLBACK": 0.1,
    # Whether the watchdog runs; None means: in debug mode.
    "AIO_WATCHDOG": None,
    # The line that aio.run logs for each request, in the format of the logging module.
    "AIO_ACCESS_LOG_FORMAT": DEFAULT_FORMAT,
    # Whether requests have an id: None, "accept" (the client's, if it is valid) or "make".
    "AIO_REQUEST_ID": None,
    # The header of the id, in requests and responses.
    "AIO_REQUEST_ID_HEADER": "X-Request-ID",
    # Hosts to which aio.client sends the id on; "*" stands for all.
    "AIO_REQUEST_ID_HOSTS": (),
}

#: Numbers that may be None.
_OPTIONAL: Final = frozenset(
    {"AIO_GC_THRESHOLD", "AIO_MAX_LAG", "AIO_SLOW_CALLBACK", "AIO_SWITCH_INTERVAL"}
)
#: The least values that make sense, for numbers of which zero does not.
_LEAST: Final = {"AIO_GC_THRESHOLD": 1, "AIO_SWITCH_INTERVAL": 1e-6, "AIO_WORKER_THREADS": 1}


def set_defaults(app: Flask) -> None:
    """Give every key that the app has not set its default."""
    for key, value in DEFAULTS.items():
        app.config.setdefault(key, value)


def check(app: Flask) -> None:
    """Refuse values with which the server would hang or could not start.

    :raises ValueError: a key has such a value.
    """
    for key, default in DEFAULTS.items():
        if isinstance(default, (int, float)) and not isinstance(default, bool):
            check_number(
                app,
                key,
                whole=isinstance(default, int),
                least=_LEAST.get(key, 0),
                optional=key in _OPTIONAL,
            )
    check_access_log_format(app)
    check_request_ids(app)


def check_number(
    app: Flask, key: str, *, whole: bool = False, least: float = 0, optional: bool = False
) -> None:
    """Refuse a key of ``app.config`` whose value is not a number, or too small.

    :param whole: whether it must be an integer.
    :param optional: whether it may be ``None``.
    :raises ValueError: it is none.
    """
    value = app.config[key]
    if value is None and optional:
        return
    if (
        isinstance(value, bool)
        or not isinstance(value, int if whole else (int, float))
        or not value >= least
    ):
        kind = "a whole number" if whole else "a number"
        raise ValueError(f"app.config[{key!r}] must be {kind} of at least {least}, not {value!r}.")
