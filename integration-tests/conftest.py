"""Starting a server in a process of its own, and ending it whatever happens."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

#: Seconds after which something counts as hanging; no statement about speed.
HANG = 60

_READY = re.compile(r"(?: \* Running on|Listening at:) (\S+)")


class Server:
    """A process that is, or will be, a server.

    :attr:`output` is what it has written so far, to stdout and stderr.
    """

    def __init__(self, arguments: Sequence[str], cwd: Path, env: dict[str, str], **popen: Any):
        self.output = ""
        self._changed = threading.Condition()
        self.cwd = cwd
        self.process = subprocess.Popen(
            arguments,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Of its own process group: it is ended as a whole.
            **popen,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            while piece := os.read(stream.fileno(), 65536):
                with self._changed:
                    self.output += piece.decode(errors="replace")
                    self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def wait_for(self, text: str | re.Pattern[str], count: int = 1) -> None:
        """Wait until the output contains a text, so many times."""
        pattern = re.compile(re.escape(text)) if isinstance(text, str) else text

        def found() -> bool:
            return len(pattern.findall(self.output)) >= count

        with self._changed:
            self._changed.wait_for(lambda: found() or not self._reader.is_alive(), HANG)
        assert found(), f"{text!r} did not appear in the output:\n{self.output}"

    def wait_until_ready(self, count: int = 1) -> None:
        """Wait for the line that says where the server listens."""
        self.wait_for(_READY, count)

    @property
    def url(self) -> str:
        """The address that was printed last."""
        return str(_READY.findall(self.output)[-1]).rstrip("/")

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def get(self, path: str = "/", **options: Any) -> tuple[int, str]:
        """GET a path; return status and body."""
        request = urllib.request.Request(self.url + path, **options)
        try:
            with urllib.request.urlopen(request, timeout=HANG) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def connect(self) -> socket.socket:
        """Open a TCP connection to the server."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=HANG)

    def send_signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for the end; return the exit status."""
        status = self.process.wait(HANG)
        self._reader.join(HANG)
        return status

    def stop(self, number: int = signal.SIGINT) -> int:
        """Send a signal and wait for the end."""
        self.send_signal(number)
        return self.wait()

    def kill(self) -> None:
        """End the process and all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(HANG)
        self._reader.join(HANG)


StartServer = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartServer]:
    """Run a command, or an app's source text as ``python app.py``, in tmp_path.

    Options: ``files``, more files by name; ``env``, more environment variables; ``ready``, whether
    to wait for the line that says where it listens; ``warnings``, the value of PYTHONWARNINGS.
    """
    servers: list[Server] = []

    def run(
        *arguments: str,
        app: str | None = None,
        files: dict[str, str] | None = None,
        env: dict[str, str] | None = None,
        ready: bool = True,
        warnings: str = "error",
        **popen: Any,
    ) -> Server:
        for name, content in {**({"app.py": app} if app else {}), **(files or {})}.items():
            (tmp_path / name).write_text(content, encoding="utf-8")
        clean = {key: value for key, value in os.environ.items() if not key.startswith("FLASK_")}
        clean.pop("WERKZEUG_RUN_MAIN", None)
        clean.pop("WERKZEUG_SERVER_FD", None)
        server = Server(
            [sys.executable, *(arguments or ("app.py",))],
            tmp_path,
            {**clean, "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": warnings, **(env or {})},
            **popen,
        )
        servers.append(server)
        if ready:
            server.wait_until_ready()
        return server

    yield run
    for server in servers:
        server.kill()


@pytest.fixture
def wait_until() -> Callable[[Callable[[], object]], None]:
    """Wait until a condition holds; fail if it never does."""

    def wait(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + HANG
        while not condition():
            assert time.monotonic() < deadline, "the condition never came to hold"
            time.sleep(0.01)

    return wait
