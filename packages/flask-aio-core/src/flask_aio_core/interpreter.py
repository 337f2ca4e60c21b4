"""The interpreter's settings in a process that serves: they are made for scripts by default."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from flask import Flask


@contextmanager
def tuned_interpreter(app: Flask) -> Iterator[None]:
    """Have the process suit a server, as the app's configuration says, until the block is left.

    The block begins when everything that stays has been loaded: the garbage collector need not look
    at that again and again. It is left alone if the program has switched it off.
    """
    interval, threshold = sys.getswitchinterval(), gc.get_threshold()
    if app.config["AIO_SWITCH_INTERVAL"] is not None:
        sys.setswitchinterval(app.config["AIO_SWITCH_INTERVAL"])
    collects = gc.isenabled() and app.config["AIO_GC_THRESHOLD"] is not None
    if collects:
        gc.collect()
        gc.freeze()
        gc.set_threshold(max(threshold[0], app.config["AIO_GC_THRESHOLD"]), *threshold[1:])
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        if collects:
            gc.set_threshold(*threshold)
            gc.unfreeze()
