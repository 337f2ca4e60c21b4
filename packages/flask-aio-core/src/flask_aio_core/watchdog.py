"""Names the synchronous function that blocks the event loop, while it does."""

from __future__ import annotations

import asyncio
import logging
import sys
import sysconfig
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Final

logger = logging.getLogger("flask_aio_core.watchdog")

#: Packages whose frames are on the way to the user's function, never the function meant.
_MACHINERY: Final = frozenset(
    {
        "aiohttp",
        "asyncio",
        "blinker",
        "flask",
        "flask_aio_core",
        "greenlet",
        "gunicorn",
        "jinja2",
        "uvloop",
        "werkzeug",
    }
)
#: Where the standard library and installed packages are.
_LIBRARIES: Final = (
    "<frozen",
    *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
)


class Watchdog:
    """A thread that pings the event loop and reports where the loop is when no answer comes.

    It costs the loop one callback per check; nothing is added to a request.

    :param limit: seconds without an answer after which the loop counts as blocked.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: float) -> None:
        self._loop = loop
        self._limit = limit
        self._loop_thread = threading.get_ident()
        self._answered = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="flask-aio-watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch; called in the loop's thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._answered.set()
        if self._thread.is_alive():
            self._thread.join(timeout=1)

    def _watch(self) -> None:
        while not self._stopping.wait(self._limit / 2):
            self._answered.clear()
            asked = time.monotonic()
            try:
                self._loop.call_soon_threadsafe(self._answered.set)
            except RuntimeError:
                return  # The loop was closed.
            if not self._answered.wait(self._limit):
                frame = sys._current_frames().get(self._loop_thread)
                if frame is not None:
                    self._report(frame, time.monotonic() - asked)
                del frame
                self._answered.wait()

    def _report(self, frame: FrameType, seconds: float) -> None:
        stack = traceback.extract_stack(frame)
        found = _users_frame(frame)
        where = "code outside of any view or hook"
        if found is not None:
            code = found.f_code
            where = f"{code.co_qualname!r} ({code.co_filename}:{found.f_lineno})"
        logger.warning(
            "The event loop has been blocked for %.2f seconds by %s. Nobody else is served"
            " meanwhile. Wrap the blocking function in flask_aio_core.in_thread, or use an"
            " asynchronous library. It is at:\n%s",
            seconds,
            where,
            "".join(traceback.format_list(stack[-6:])),
        )


def _users_frame(frame: FrameType) -> FrameType | None:
    """Return the frame of the view, hook or loader that is blocking: the user's if there is one.

    Where only libraries are on the stack, it is the function that Flask called.
    """
    return _outermost(frame, _is_library) or _outermost(frame, _is_machinery)


def _outermost(frame: FrameType, skip: Callable[[FrameType], bool]) -> FrameType | None:
    """Return the last frame, going outwards, of the first run of frames that are not skipped."""
    found = None
    current: FrameType | None = frame
    while current is not None:
        if not skip(current):
            found = current
        elif found is not None:
            break
        current = current.f_back
    return found


def _is_machinery(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] in _MACHINERY


def _is_library(frame: FrameType) -> bool:
    return _is_machinery(frame) or frame.f_code.co_filename.startswith(_LIBRARIES)
