"""The AIO_* keys of app.config."""

from __future__ import annotations

import pytest

from flask_aio_core import AioHTTP
from flask_aio_core.config import DEFAULTS, check


def test_every_key_has_its_default_and_the_apps_own_value_is_kept(app):
    """Defaults fill what the app has not set, before or after the extension was made."""
    app.config["AIO_WORKER_THREADS"] = 3

    AioHTTP(app)

    assert app.config["AIO_WORKER_THREADS"] == 3
    assert {key: app.config[key] for key in DEFAULTS} == {**DEFAULTS, "AIO_WORKER_THREADS": 3}
    check(app)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("AIO_WORKER_THREADS", 0),
        ("AIO_WORKER_THREADS", "8"),
        ("AIO_WORKER_THREADS", 1.5),
        ("AIO_WORKER_THREADS", True),
        ("AIO_WORKER_QUEUE", -1),
        ("AIO_MAX_BUFFERED_BODY", None),
        ("AIO_SHUTDOWN_GRACE", float("nan")),
        ("AIO_KEEPALIVE", "long"),
        ("AIO_SWITCH_INTERVAL", 0),
        ("AIO_GC_THRESHOLD", 0),
        ("AIO_MAX_LAG", -1),
    ],
)
async def test_value_that_would_hang_or_fail_later_is_refused_at_start(app, aio, serve, key, value):
    """The server does not start, and the error names the key and what it must be."""
    app.config[key] = value

    with pytest.raises(ValueError, match=rf"{key}.*must be a .*number"):
        await serve(app)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("AIO_GC_THRESHOLD", None),
        ("AIO_MAX_LAG", None),
        ("AIO_SHUTDOWN_GRACE", 2),
        ("AIO_SLOW_CALLBACK", None),
        ("AIO_SWITCH_INTERVAL", None),
        ("AIO_WORKER_QUEUE", 0),
    ],
)
def test_value_that_makes_sense_is_accepted(app, aio, key, value):
    """None turns something off; zero and whole numbers are numbers of seconds."""
    app.config[key] = value

    check(app)
