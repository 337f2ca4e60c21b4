"""Choosing an event loop, and telling whether one runs here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs in the current thread, if one does."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def loop_factory(use_uvloop: bool | None) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes the event loop of a server.

    :param use_uvloop: ``None`` uses uvloop if it is installed.
    :raises ImportError: uvloop was asked for and is not installed.
    """
    if use_uvloop is False:
        return asyncio.new_event_loop
    try:
        import uvloop
    except ImportError:
        if use_uvloop:
            raise ImportError(
                "uvloop is not installed: pip install 'flask-aio-core[speedups]', or do not ask for"
                " it with uvloop=True."
            ) from None
        return asyncio.new_event_loop
    return uvloop.new_event_loop
