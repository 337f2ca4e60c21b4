"""A stack dump in the error log when the master kills a worker whose event loop is blocked."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import sys
from typing import Any

from gunicorn.glogging import Logger


def enable_stack_dump(log: Logger) -> None:
    """Have the interpreter write the stacks of all threads when SIGABRT or a crash ends it.

    It is ``faulthandler``, not a signal handler in Python, because that would wait for the very
    function that blocks, if this is one in C. Call it again when the log's file is another.
    """
    stream: Any = sys.__stderr__
    for handler in log.error_log.handlers:
        if isinstance(handler, logging.StreamHandler):
            stream = handler.stream
            break
    with contextlib.suppress(AttributeError, OSError, ValueError):  # There may be no such file.
        faulthandler.enable(file=stream)


def disable_stack_dump() -> None:
    """Let go of the file before it is closed: another could get its number."""
    faulthandler.disable()
