"""gunicorn's worker in the situations of a deployment that the documentation speaks of."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: Its import lasts until it is told to end.
SLOW_IMPORT = """
import os, signal, time
from flask import Flask

print("importing", flush=True)
while not os.path.exists("go-on"):
    time.sleep(0.01)
app = Flask(__name__)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT, signal.SIGTERM])
def test_stop_while_the_app_is_being_loaded_is_no_failure(start, number, wait_until):
    """A worker that is stopped during the import of the app does not count as failed."""
    server = start(
        *("-m", "gunicorn", "app:app", "-k", "flask_aio_gunicorn.AioWorker"),
        *("--bind", "127.0.0.1:0", "--no-control-socket", "--log-level", "debug"),
        app=SLOW_IMPORT,
        warnings="default",
    )
    server.wait_for("importing")
    # As a terminal does it: to the workers, too.
    os.killpg(server.process.pid, number)
    if number == signal.SIGTERM:  # It lets the import come to its end.
        (server.cwd / "go-on").touch()
    assert server.wait() == 0, server.output
    assert "failed to load" not in server.output


def test_refused_setting_ends_gunicorn_with_its_reason(start):
    """What the page of settings calls refused is told in one line when gunicorn starts."""
    server = start(
        *("-m", "gunicorn", "app:app", "-k", "flask_aio_gunicorn.AioWorker"),
        *("--bind", "127.0.0.1:0", "--no-control-socket", "--casefold-http-method"),
        app="from flask import Flask\napp = Flask(__name__)\n",
        warnings="default",
        ready=False,
    )
    assert server.wait() != 0
    server.wait_for("cannot honour casefold_http_method")
    assert "Booting worker" not in server.output


def test_check_config_loads_the_app_only(tmp_path):
    """``--check-config`` accepts a setting that is refused when gunicorn starts."""
    (tmp_path / "app.py").write_text("from flask import Flask\napp = Flask(__name__)\n")
    command = [
        *(sys.executable, "-m", "gunicorn", "app:app", "-k", "flask_aio_gunicorn.AioWorker"),
        *("--check-config", "--casefold-http-method"),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
