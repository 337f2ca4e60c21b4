"""The wheels, installed in fresh environments as users do it: one for each step of the story."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import websockets.asyncio.client

ROOT = Path(__file__).parents[1]
OURS = ["flask-aio-core", "flask-aio-ws", "flask-aio-gunicorn"]
#: Seconds after which something counts as hanging; no statement about speed.
HANG = 60

#: The first test of a step also makes its environment, and the very first one the wheels.
pytestmark = pytest.mark.timeout(600)

STEPS = {
    "core": ["flask-aio-core"],
    "core and ws": ["flask-aio-core", "flask-aio-ws"],
    "core and gunicorn": ["flask-aio-core", "flask-aio-gunicorn"],
    "all": ["flask-aio-core", "flask-aio-ws", "flask-aio-gunicorn[speedups]"],
}
CORE, WS, GUNICORN, ALL = STEPS

#: Works in every step: it has nothing of the other packages but ``aio.ws``.
APP = """
import asyncio
import os
import threading

from flask import Flask, Response
from flask_aio_core import AioHTTP

app = Flask(__name__)
aio = AioHTTP(app)
main = threading.get_ident()
wanted = asyncio.Event()


@app.get("/coroutine")
async def coroutine():
    await asyncio.sleep(0)
    return {"on the loop": threading.get_ident() == main, "pid": os.getpid()}


@app.get("/synchronous")
def synchronous():
    return {"on the loop": threading.get_ident() == main, "pid": os.getpid()}


@app.get("/stream")
async def stream():
    async def pieces():
        yield "first"
        await asyncio.sleep(0.2)
        yield "second"

    return Response(pieces(), content_type="text/plain")


@app.get("/plugin")
async def plugin():
    try:
        return str(aio.ws)
    except Exception as error:
        return {"error": type(error).__name__, "message": str(error)}


if __name__ == "__main__":
    aio.run(port=0)
"""
ECHO = """
import os
from flask import request
from flask_aio_ws import websocket, ws
from app import aio, app


@app.route("/echo")
@websocket
async def echo():
    await ws.send_str(str(os.getpid()))
    async for message in ws:
        await ws.send_str(message.data)


@app.route("/blocking-echo")
@websocket
def blocking_echo():
    for message in aio.ws:
        ws.send(message)


if __name__ == "__main__":
    aio.run(port=0)
"""
#: Tells what Python finds in an environment.
INSPECT = """
import importlib.metadata, importlib.util, json, sys
names = ("flask_aio_core", "flask_aio_ws", "flask_aio_gunicorn", "gunicorn", "uvloop")
specs = {name: importlib.util.find_spec(name) for name in names}
print(json.dumps({
    "found": {name: spec.origin for name, spec in specs.items() if spec is not None},
    "distributions": [one.metadata["Name"] for one in importlib.metadata.distributions()],
    "path": sys.path,
}))
"""


@dataclass
class Environment:
    """A virtual environment that some of the wheels are installed in."""

    path: Path

    @property
    def python(self) -> str:
        return str(self.path / "bin" / "python")

    def script(self, name: str) -> Path:
        return self.path / "bin" / name


def run_module(*command: str, cwd: Path) -> None:
    """Run a module of the test's own Python."""
    subprocess.run([sys.executable, "-m", *command], cwd=cwd, check=True)


@pytest.fixture(scope="module")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our wheels, and those of all that they need."""
    directory = tmp_path_factory.mktemp("wheelhouse")
    for name in OURS:
        build = ["build", "--no-isolation", "--wheel", "--outdir", str(directory), name]
        run_module(*build, cwd=ROOT / "packages")
    places = ["--find-links", str(directory), "--dest", str(directory)]
    run_module("pip", "download", "--quiet", *places, *STEPS[ALL], cwd=directory)
    return directory


@pytest.fixture(scope="module")
def install(
    wheelhouse: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Environment]:
    """Make the environment of a step, once."""
    made: dict[str, Environment] = {}

    def run(step: str) -> Environment:
        if step not in made:
            directory = tmp_path_factory.mktemp("installed")
            path = directory / "venv"
            run_module("venv", "--without-pip", str(path), cwd=directory)
            options = ["--quiet", "--no-compile", "--no-index", "--find-links", str(wheelhouse)]
            pip = ["pip", "--python", str(path), "install", *options]
            run_module(*pip, *STEPS[step], cwd=directory)
            made[step] = Environment(path)
        return made[step]

    return run


@pytest.fixture
def serve(start: Any) -> Callable[..., Any]:
    """Start a command of an environment, with the app in the working directory."""
    execute = "import os, sys; os.execv(sys.argv[1], sys.argv[1:])"

    def run(*command: str | Path, **options: Any) -> Any:
        return start(
            *("-c", execute, *map(str, command)),
            app=APP,
            files={"echo.py": ECHO},
            env={"PYTHONPATH": ""},
            warnings="default",
            **options,
        )

    return run


def gunicorn(*options: str) -> list[str]:
    return ["--bind", "127.0.0.1:0", "--no-control-socket", *options]


def check_http(server: Any) -> None:
    """A coroutine, a synchronous view and a stream are served."""
    status, text = server.get("/coroutine")
    assert (status, json.loads(text)["on the loop"]) == (200, True)
    status, text = server.get("/synchronous")
    assert (status, json.loads(text)["on the loop"]) == (200, False)
    assert server.get("/stream") == (200, "firstsecond")


def check_no_websocket(server: Any) -> None:
    """``aio.ws`` says which package is missing."""
    _, text = server.get("/plugin")
    answer = json.loads(text)
    assert answer["error"] == "NoWebSocket"
    assert "flask-aio-ws" in answer["message"]


async def check_websocket(server: Any, path: str) -> None:
    """A WebSocket sends back what it is sent."""
    url = f"ws://127.0.0.1:{server.port}{path}"
    async with websockets.asyncio.client.connect(url, open_timeout=HANG) as socket:
        if path == "/echo":
            assert str(await socket.recv()).isdecimal()
        for text in ("one", "two", "x" * 100_000):
            await socket.send(text)
            async with asyncio.timeout(HANG):
                assert await socket.recv() == text


def test_readme_shows_the_steps():
    """It has a command for each package, in the order of the story, with what the package adds."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^\$ pip install (\S+) +# \w.*\.$", text, re.MULTILINE)
    assert commands == OURS


@pytest.mark.parametrize("step", STEPS)
def test_exactly_what_was_asked_for_is_installed(install, tmp_path, step):
    """The step's packages come from its own environment, and none of the others is there."""
    environment = install(step)
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [environment.python, "-c", INSPECT]
    result = json.loads(subprocess.check_output(command, cwd=tmp_path, env=clean))
    names = {name.partition("[")[0] for name in STEPS[step]}
    with_gunicorn = "flask-aio-gunicorn" in names
    assert set(result["distributions"]) & set(OURS) == names
    assert ("gunicorn" in result["found"]) == with_gunicorn
    assert ("uvloop" in result["found"]) == (step == ALL)
    for name in OURS:
        assert (name.replace("-", "_") in result["found"]) == (name in names)
    for origin in result["found"].values():
        assert Path(origin).is_relative_to(environment.path)
    assert not any(Path(entry).is_relative_to(ROOT) for entry in result["path"] if entry)
    assert environment.script("gunicorn").exists() == with_gunicorn
    assert environment.script("flask-aio-gunicorn").exists() == with_gunicorn


@pytest.mark.parametrize("command", [["app.py"], ["-m", "flask", "aio", "run", "--port", "0"]])
def test_core_alone_serves_with_its_own_server(install, serve, command):
    """``aio.run`` and ``flask aio run`` serve views; ``aio.ws`` says which package is missing."""
    server = serve(install(CORE).python, *command)
    check_http(server)
    check_no_websocket(server)
    assert server.stop(signal.SIGTERM) == 0


def test_core_alone_has_no_worker_for_gunicorn(install, tmp_path):
    """Without the third package there is neither gunicorn nor our worker."""
    for module in ("gunicorn", "flask_aio_gunicorn"):
        command = [install(CORE).python, "-m", module, "app:app"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert f"No module named {module}" in done.stderr


async def test_core_and_ws_serve_websockets(install, serve):
    """Under ``aio.run`` WebSockets of both kinds echo, beside the other views."""
    server = serve(install(WS).python, "echo.py")
    await asyncio.to_thread(check_http, server)
    await check_websocket(server, "/echo")
    await check_websocket(server, "/blocking-echo")
    assert await asyncio.to_thread(server.stop, signal.SIGTERM) == 0


def test_core_and_gunicorn_serve_with_the_worker(install, serve):
    """``gunicorn -k`` serves all kinds of views, and ``aio.ws`` says what is missing."""
    environment = install(GUNICORN)
    options = gunicorn("-k", "flask_aio_gunicorn.AioWorker")
    server = serve(environment.script("gunicorn"), "app:app", *options)
    check_http(server)
    check_no_websocket(server)
    assert server.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize(
    ("step", "worker", "as_module"),
    [
        (GUNICORN, "AioWorker", False),
        (ALL, "AioUVLoopWorker", False),
        (ALL, "AioUVLoopWorker", True),
    ],
)
def test_command_chooses_the_worker(install, serve, step, worker, as_module):
    """``flask-aio-gunicorn`` takes uvloop's worker if uvloop is installed, and serves."""
    environment = install(step)
    module = [environment.python, "-m", "flask_aio_gunicorn"]
    command = module if as_module else [environment.script("flask-aio-gunicorn")]
    server = serve(*command, "app:app", *gunicorn())
    server.wait_for(f"Using worker: flask_aio_gunicorn.{worker}")
    check_http(server)
    assert server.stop(signal.SIGTERM) == 0


async def test_all_three_serve_everything_with_two_workers(install, serve):
    """Two workers serve views and WebSockets, and TERM closes the sockets of both with 1001."""
    environment = install(ALL)
    options = gunicorn("-k", "flask_aio_gunicorn.AioWorker", "--workers", "2")
    server = serve(environment.script("gunicorn"), "echo:app", *options)
    await asyncio.to_thread(check_http, server)
    await check_websocket(server, "/blocking-echo")
    url = f"http://127.0.0.1:{server.port}/echo"
    timeout = aiohttp.ClientTimeout(total=HANG)
    async with aiohttp.ClientSession(timeout=timeout) as client:
        sockets: list[aiohttp.ClientWebSocketResponse] = []
        pids: set[str] = set()
        async with asyncio.timeout(HANG):
            while len(pids) < 2:
                socket = await client.ws_connect(url)
                pids.add(await socket.receive_str())
                sockets.append(socket)
        for number, socket in enumerate(sockets):
            await socket.send_str(f"number {number}")
            assert await socket.receive_str() == f"number {number}"
        server.send_signal(signal.SIGTERM)
        for socket in sockets:
            message = await socket.receive(HANG)
            assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1001)
    assert await asyncio.to_thread(server.wait) == 0
