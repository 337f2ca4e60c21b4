"""A real gunicorn: its master in a process of its own, with real workers, sockets and signals."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

#: Seconds after which something counts as hanging; no statement about speed.
HANG = 60

_LISTENING = re.compile(r"Listening at: (\S+)")

#: What most tests serve: a view of each kind.
APP = """
import asyncio
import os
import threading
import time

from flask import Flask, request

app = Flask(__name__)


@app.get("/coroutine")
async def coroutine():
    await asyncio.sleep(float(request.args.get("seconds", 0)))
    return {"pid": os.getpid(), "thread": threading.current_thread().name}


@app.get("/synchronous")
def synchronous():
    time.sleep(float(request.args.get("seconds", 0)))
    return {"pid": os.getpid(), "thread": threading.current_thread().name}


@app.route("/environ", methods=["GET", "POST"])
async def environ():
    return {key: value for key, value in request.environ.items() if isinstance(value, str)}


@app.post("/upload")
async def upload():
    return {"length": len(request.get_data())}
"""


class Response:
    """A complete response."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.reason = response.reason
        self.headers = response.headers
        self.body = response.read()

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Gunicorn:
    """A gunicorn master; :attr:`output` is what it and its workers have written so far."""

    def __init__(self, arguments: list[str], cwd: Path, env: dict[str, str], **popen: Any) -> None:
        self.output = ""
        self.cwd = cwd
        self._changed = threading.Condition()
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

    @property
    def pid(self) -> int:
        """The master's process."""
        return self.process.pid

    @property
    def addresses(self) -> list[str]:
        """Where it listens, as in ``http://127.0.0.1:1234`` or ``unix:/path``."""
        addresses: str = _LISTENING.findall(self.output)[-1]
        return addresses.split(",")

    @property
    def port(self) -> int:
        """The port of the first address."""
        return int(self.addresses[0].rpartition(":")[2])

    def wait_for(self, text: str | re.Pattern[str], count: int = 1) -> None:
        """Wait until the output contains a text, so many times."""
        pattern = re.compile(re.escape(text)) if isinstance(text, str) else text

        def found() -> bool:
            return len(pattern.findall(self.output)) >= count

        with self._changed:
            self._changed.wait_for(lambda: found() or not self._reader.is_alive(), HANG)
        assert found(), f"{text!r} did not appear in the output:\n{self.output}"

    def connect(self) -> socket.socket:
        """Open a TCP connection to the first address."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=HANG)

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> Response:
        """Make a request over a connection of its own.

        Header names are given with underscores for hyphens: ``X_Forwarded_Proto="https"``.
        """
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=HANG)
        try:
            client.request(
                method,
                path,
                body,
                {name.replace("_", "-"): value for name, value in headers.items()},
            )
            return Response(client.getresponse())
        finally:
            client.close()

    def get(self, path: str = "/coroutine", **headers: str) -> Response:
        """GET a path over a connection of its own."""
        return self.request("GET", path, **headers)

    def exchange(self, data: bytes, connection: socket.socket | None = None) -> Response:
        """Send bytes that need not be a request; return the response.

        It is done over an open connection, or else over a connection of its own.
        """
        with contextlib.ExitStack() as stack:
            if connection is None:
                connection = stack.enter_context(self.connect())
            connection.sendall(data)
            response = http.client.HTTPResponse(connection)
            stack.callback(response.close)
            response.begin()
            return Response(response)

    def workers(self) -> list[int]:
        """The processes of the workers, the oldest first (Linux)."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return sorted(int(child) for child in children)

    def send_signal(self, number: int, pid: int | None = None) -> None:
        """Send a signal to the master, or to another process."""
        os.kill(self.pid if pid is None else pid, number)

    def wait(self) -> int:
        """Wait for the master's end; return the exit status."""
        status = self.process.wait(HANG)
        self._reader.join(HANG)
        return status

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal to the master and wait for its end."""
        self.send_signal(number)
        return self.wait()

    def kill(self) -> None:
        """End the master and all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(HANG)
        self._reader.join(HANG)


StartGunicorn = Callable[..., Gunicorn]


def _starting(make_directory: Callable[[], Path]) -> Iterator[StartGunicorn]:
    started: list[Gunicorn] = []

    def start(
        *options: str,
        app: str = APP,
        name: str = "app:app",
        config: str | None = None,
        files: dict[str, str] | None = None,
        env: dict[str, str] | None = None,
        worker: str | None = "flask_aio_gunicorn.AioWorker",
        bind: str | None = "127.0.0.1:0",
        ready: bool = True,
        command: tuple[str, ...] = (sys.executable, "-m", "gunicorn"),
        **popen: Any,
    ) -> Gunicorn:
        contents = {"app.py": app, **(files or {})}
        if config is not None:
            contents["gunicorn.conf.py"] = config
        directory = make_directory()
        for file, content in contents.items():
            (directory / file).write_text(content, encoding="utf-8")
        arguments = [*command, name, "--no-control-socket"]
        if worker is not None:
            arguments += ["-k", worker]
        if bind is not None:
            arguments += ["-b", bind]
        clean = {key: value for key, value in os.environ.items() if not key.startswith("FLASK_")}
        server = Gunicorn(
            [*arguments, *options],
            directory,
            {**clean, "PYTHONUNBUFFERED": "1", **(env or {})},
            **popen,
        )
        started.append(server)
        if ready:
            server.wait_for(_LISTENING)
            server.wait_for("Booting worker with pid")
        return server

    try:
        yield start
    finally:
        for server in started:
            server.kill()


@pytest.fixture
def gunicorn(tmp_path: Path) -> Iterator[StartGunicorn]:
    """Start gunicorn with our worker in tmp_path, where an ``app.py`` holds the app.

    Positional arguments are gunicorn's options. By keyword: ``app``, the text of app.py; ``name``,
    what is served of it; ``config``, the text of a gunicorn.conf.py; ``files``, more files by
    name; ``env``, more environment variables; ``worker``; ``bind``; ``ready``, whether to wait
    until the first worker listens; ``command``, what to run instead of ``python -m gunicorn``.
    """
    yield from _starting(lambda: tmp_path)


@pytest.fixture(scope="module")
def shared_gunicorn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartGunicorn]:
    """Start gunicorn as ``gunicorn`` does, each in a directory of its own, for a whole module."""
    yield from _starting(lambda: tmp_path_factory.mktemp("gunicorn"))


@pytest.fixture
def wait_until() -> Callable[[Callable[[], object]], None]:
    """Wait until a condition holds; fail if it never does."""

    def wait(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + HANG
        while not condition():
            assert time.monotonic() < deadline, "the condition never came to hold"
            time.sleep(0.01)

    return wait
