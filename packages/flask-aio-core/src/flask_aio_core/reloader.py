"""Restarting the server when a file changes: Werkzeug's reloader, with a graceful end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any, Final

import click

# Werkzeug has no public name for its reloader but run_simple, which brings its own server.
from werkzeug._reloader import _get_args_for_reloading, run_with_reloader
from werkzeug.serving import is_running_from_reloader

#: The status with which Werkzeug's reloader ends a process that is to be started again.
_RESTART: Final = 3


def run_reloading(serve: Callable[[], None], stop: Callable[[], None], **watch: Any) -> None:
    """Serve in a child process that is started again whenever a file has changed.

    :param serve: called, in the child, in a thread: its main thread watches the files.
    :param stop: ends what ``serve`` does, and returns when it has ended.
    :param watch: what to watch, as ``run_simple`` names it.
    """
    if not is_running_from_reloader():
        sys.exit(_supervise())
    try:
        run_with_reloader(serve, **watch)
    finally:
        try:
            # A signal to the whole process group reaches us twice: from the parent process too.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        finally:
            # The thread is a daemon: without this it would be cut off, clean-up hooks and all.
            stop()


def _supervise() -> int:
    """Run the child process until it ends for another reason than a change.

    Werkzeug's own function kills the child if it is interrupted meanwhile. Ctrl-C reaches the child
    without us, and SIGTERM is passed on: it stops gracefully, and we wait for it.
    """
    process: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, _: Any) -> None:
        if process is not None and number != signal.SIGINT:
            process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    while True:
        click.echo(" * Restarting with the reloader")
        process = subprocess.Popen(
            _get_args_for_reloading(),
            env={**os.environ, "WERKZEUG_RUN_MAIN": "true"},
            close_fds=False,
        )
        status = process.wait()
        if status != _RESTART:
            return status
