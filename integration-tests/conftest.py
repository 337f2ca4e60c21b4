"""Starting a server in a process of its own, and ending it whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import aiohttp
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

    def children(self) -> list[int]:
        """The processes that it has started, like gunicorn's workers (Linux)."""
        pid = self.process.pid
        return sorted(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))

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


@contextlib.contextmanager
def starting_in(directory: Path) -> Iterator[StartServer]:
    """Yield a function that runs a command, or an app's source text as ``python app.py``.

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
            (directory / name).write_text(content, encoding="utf-8")
        clean = {key: value for key, value in os.environ.items() if not key.startswith("FLASK_")}
        clean.pop("WERKZEUG_RUN_MAIN", None)
        clean.pop("WERKZEUG_SERVER_FD", None)
        server = Server(
            [sys.executable, *(arguments or ("app.py",))],
            directory,
            {**clean, "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": warnings, **(env or {})},
            **popen,
        )
        servers.append(server)
        if ready:
            server.wait_until_ready()
        return server

    try:
        yield run
    finally:
        for server in servers:
            server.kill()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartServer]:
    """Start servers as :func:`starting_in` says, in tmp_path."""
    with starting_in(tmp_path) as run:
        yield run


@pytest.fixture(scope="module")
def start_for_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """Do the same as :func:`start`, for servers that all tests of a module use."""
    with starting_in(tmp_path_factory.mktemp("servers")) as run:
        yield run


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis server of the module's own."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("there is no redis-server")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    process = subprocess.Popen(
        [program, *options],
        cwd=tmp_path_factory.mktemp("redis"),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert any("Ready to accept connections" in line for line in process.stdout)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.communicate(timeout=HANG)


class Upstream(ThreadingHTTPServer):
    """A service that answers with JSON: rates, and the port that the client has asked from."""

    daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # The connection stays open.

    def do_GET(self) -> None:
        body = json.dumps({"EUR": 1.1, "port": self.client_address[1]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    """A service of the module's own, in a thread."""
    with Upstream(("127.0.0.1", 0), _Answer) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(HANG)


@pytest.fixture(scope="session")
def start_in() -> Callable[[Path], contextlib.AbstractContextManager[StartServer]]:
    """Return :func:`starting_in`, for fixtures that outlive a test."""
    return starting_in


@pytest.fixture
def gunicorn(start: StartServer) -> StartServer:
    """Serve ``app:app`` of an app.py by gunicorn and our worker.

    Positional arguments are gunicorn's options; ``worker`` is the name of our worker's class,
    ``name`` what is served, and the others are those of :func:`start`.
    """

    def run(
        *options: str, worker: str = "AioWorker", name: str = "app:app", **others: Any
    ) -> Server:
        return start(
            # Not "-m gunicorn", which cannot start itself anew for USR2.
            *(
                str(Path(sys.executable).with_name("gunicorn")),
                name,
                "-k",
                f"flask_aio_gunicorn.{worker}",
            ),
            *("-b", "127.0.0.1:0", "--no-control-socket", *options),
            **{"warnings": "default", **others},
        )

    return run


#: A view of each kind; ``VERSION`` is what a test changes.
LOADED_APP = """
import asyncio, os, time
from flask import Flask, request
from flask_aio_core import AioHTTP
from flask_aio_ws import websocket, ws

VERSION = "1"
app = Flask(__name__)
aio = AioHTTP(app)


@app.after_request
def sign(response):
    response.headers["X-Version"] = VERSION
    response.headers["X-Pid"] = str(os.getpid())
    return response


@app.get("/coroutine")
async def coroutine():
    await asyncio.sleep(0.01)
    return "x" * 1000


@app.get("/synchronous")
def synchronous():
    time.sleep(0.01)
    return "x" * 1000


@app.get("/stream")
async def stream():
    for _ in range(5):
        yield "x" * 200
        await asyncio.sleep(0.005)


@app.post("/upload")
async def upload():
    return "x" * len(request.get_data())


@app.route("/echo")
@websocket
async def echo():
    async for message in ws:
        await ws.send_str(message.data)
"""


class Load:
    """Clients of all kinds that make one request after the other, until the block is left.

    :attr:`failures` says what was lost; the clients never try anything twice.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        #: Complete responses, by client.
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        #: Which version of the app has answered, and which process, how many times.
        self.versions: Counter[str] = Counter()
        self.pids: Counter[int] = Counter()

    async def __aenter__(self) -> Load:
        for kind in ("coroutine", "synchronous", "stream", "upload"):
            for number in range(3):
                self._start(f"{kind} {number}", self._request, kind, reuse=number > 0)
        for number in range(2):
            self._start(f"websocket {number}", self._talk, "echo", reuse=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        async with asyncio.timeout(HANG):
            await asyncio.gather(*self._tasks)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until a condition holds."""
        async with asyncio.timeout(HANG):
            while not condition():  # noqa: ASYNC110 -- nobody would set an event
                await asyncio.sleep(0.01)

    async def more(self, count: int = 10) -> None:
        """Wait until every client has got so many more complete responses, or one has failed."""
        before = self.counts.copy()
        await self.until(
            lambda: (
                self.failures
                or all(self.counts[name] - before[name] >= count for name in self._names)
            )
        )

    @property
    def _names(self) -> list[str]:
        return [task.get_name() for task in self._tasks]

    def _start(
        self, name: str, act: Callable[..., Awaitable[None]], path: str, **how: bool
    ) -> None:
        self._tasks.append(asyncio.create_task(self._repeat(name, act, path, **how), name=name))

    async def _repeat(
        self, name: str, act: Callable[..., Awaitable[None]], path: str, *, reuse: bool
    ) -> None:
        connector = aiohttp.TCPConnector(limit=1, force_close=not reuse)
        timeout = aiohttp.ClientTimeout(total=HANG)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            session._retry_connection = False  # It would hide the loss of a request.
            while not self._stopping and len(self.failures) < 20:
                try:
                    await act(session, f"{self._url}/{path}")
                    self.counts[name] += 1
                except Exception as error:
                    self.failures.append(f"{name}: {error!r}")
                await asyncio.sleep(0.002)

    async def _request(self, session: aiohttp.ClientSession, url: str) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(5):
                yield b"y" * 200
                await asyncio.sleep(0.005)

        upload = url.endswith("upload")
        async with session.request(
            "POST" if upload else "GET", url, data=pieces() if upload else None
        ) as response:
            body = await response.text()
        assert (response.status, body) == (200, "x" * 1000)
        self.versions[response.headers["X-Version"]] += 1
        self.pids[int(response.headers["X-Pid"])] += 1

    async def _talk(self, session: aiohttp.ClientSession, url: str) -> None:
        """Exchange some messages, unless the server says that it goes away."""
        async with session.ws_connect(url) as socket:
            for number in range(5):
                with contextlib.suppress(ConnectionError):  # The next message says why.
                    await socket.send_str(str(number))
                message = await socket.receive()
                if (message.type, message.data) != (aiohttp.WSMsgType.TEXT, str(number)):
                    assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1001)
                    return


@pytest.fixture
def loaded_app() -> str:
    """The text of an app for :func:`hammer`."""
    return LOADED_APP


@pytest.fixture
def hammer() -> Callable[[str], Load]:
    """Make requests of all kinds to the loaded app at a URL, inside an ``async with`` block."""
    return Load


@pytest.fixture
def is_running() -> Callable[[int], bool]:
    """Whether a process, which need not be a child of ours, has not ended yet (Linux)."""

    def is_running(pid: int) -> bool:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False
        return stat.rpartition(")")[2].split()[0] not in "ZX"

    return is_running


@pytest.fixture
def wait_until() -> Callable[[Callable[[], object]], None]:
    """Wait until a condition holds; fail if it never does."""

    def wait(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + HANG
        while not condition():
            assert time.monotonic() < deadline, "the condition never came to hold"
            time.sleep(0.01)

    return wait
