"""Names the synchronous function that blocks the event loop, while it does."""

from __future__ import annotations

import logging
import sys
import sysconfig
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .loop_lag import LoopLag

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
    """A thread that sees the timer of :class:`.LoopLag` overdue, and reports where the loop is.

    It wakes up once per interval of the timer; nothing is added to a request.

    :param limit: seconds that the timer may be overdue before the loop counts as blocked.
    :param quiet: seconds in which the same function is not reported again.
    """

    def __init__(self, lag: LoopLag, limit: float, quiet: float = 0.0) -> None:
        self._lag = lag
        self._limit = limit
        self._quiet = quiet
        self._places: dict[str, _Place] = {}
        self._loop_thread = threading.get_ident()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="flask-aio-watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch; called in the loop's thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=1)

    def _watch(self) -> None:
        reported = 0.0
        pause = self._limit
        while not self._stopping.wait(pause):
            due = self._lag.due
            overdue = time.monotonic() - due
            pause = self._limit - overdue
            if pause > 0:
                continue
            pause = self._limit
            if due == reported:
                continue  # Still the same blockade.
            frame = sys._current_frames().get(self._loop_thread)
            if frame is not None and self._lag.due == due:
                self._report(frame, overdue)
            del frame
            reported = due

    def _report(self, frame: FrameType, seconds: float) -> None:
        found = _users_frame(frame)
        where = name = "code outside of any view or hook"
        if found is not None:
            code = found.f_code
            where = f"{code.co_qualname!r} ({code.co_filename}:{found.f_lineno})"
            name = f"{code.co_filename}:{code.co_qualname}"
        place = self._places.setdefault(name, _Place())
        now = time.monotonic()
        if now < place.quiet_until:
            place.unreported += 1
            return
        again = f" (unreported since the last time: {place.unreported})" if place.unreported else ""
        place.quiet_until, place.unreported = now + self._quiet, 0
        logger.warning(
            "The event loop has been blocked for %.2f seconds by %s%s. Nobody else is served"
            " meanwhile. Wrap the blocking function in flask_aio_core.in_thread, or use an"
            " asynchronous library. It is at:\n%s",
            seconds,
            where,
            again,
            "".join(traceback.format_list(traceback.extract_stack(frame)[-6:])),
        )


@dataclass
class _Place:
    """A function that has blocked the loop: when it may be reported again, how often it was not."""

    quiet_until: float = 0.0
    unreported: int = 0


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
