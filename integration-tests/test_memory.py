"""A gigabyte goes through a server in either direction without staying in its memory."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="reads peak memory from /proc"
)

GIGABYTE = 1024**3
ALLOWED_GROWTH = 20 * 1024**2
PIECE = 256 * 1024

APP = """
from flask import Flask, request, send_file
from flask_aio_core import AioHTTP

app = Flask(__name__)
aio = AioHTTP(app)
PIECE = bytes(256 * 1024)


def count():
    size = 0
    while piece := request.stream.read(64 * 1024):
        size += len(piece)
    return str(size)


@app.get("/memory")
def memory():
    with open("/proc/self/status") as file:
        return next(line.split()[1] for line in file if line.startswith("VmHWM"))


@app.post("/upload/coroutine")
async def upload():
    return count()


@app.post("/upload/synchronous")
def upload_synchronously():
    return count()


@app.get("/download/coroutine")
async def download():
    async def pieces():
        for _ in range(4096):
            yield PIECE

    return pieces()


@app.get("/download/synchronous")
def download_synchronously():
    return iter([PIECE] * 4096)


@app.get("/download/file")
def download_file():
    return send_file(request.args["path"])


@app.get("/download/file/coroutine")
async def download_file_in_coroutine():
    return send_file(request.args["path"])


aio.run(port=0, access_log=False)
"""


@pytest.fixture
def port(tmp_path: Path):
    """The port of a server process with the app above."""
    (tmp_path / "app.py").write_text(APP)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "app.py"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    line = next(line for line in process.stdout if "Running on" in line)
    yield int(line.partition("127.0.0.1:")[2].split()[0])
    process.kill()
    process.wait()
    process.stdout.close()


async def ask(port: int, head: str, body_size: int = 0) -> tuple[int, bytes]:
    """Send a request; return the size of the answer's body, and the body if it is small."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4 * PIECE)
    writer.write(f"{head}\r\nHost: localhost\r\nConnection: close\r\n".encode())
    if body_size:
        writer.write(f"Content-Length: {body_size}\r\n".encode())
    writer.write(b"\r\n")
    piece = bytes(PIECE)
    for _ in range(body_size // PIECE):
        writer.write(piece)
        await writer.drain()
    status = await reader.readuntil(b"\r\n\r\n")
    assert b" 200 " in status
    size, last = 0, b""
    while data := await reader.read(4 * PIECE):
        size += len(data)
        last = data
    writer.close()
    return size, last


async def peak_memory(port: int) -> int:
    """Return the most memory, in bytes, that the server has ever had resident."""
    return int((await ask(port, "GET /memory HTTP/1.1"))[1]) * 1024


@pytest.mark.timeout(300)
@pytest.mark.parametrize("side", ["coroutine", "synchronous"])
async def test_upload_of_a_gigabyte_is_not_held_in_memory(port, side):
    """A body that the view reads in pieces leaves the memory as the pieces are done with."""
    await ask(port, f"POST /upload/{side} HTTP/1.1", 32 * PIECE)
    before = await peak_memory(port)

    _, answer = await ask(port, f"POST /upload/{side} HTTP/1.1", GIGABYTE)

    assert int(answer) == GIGABYTE
    assert await peak_memory(port) - before < ALLOWED_GROWTH


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "path",
    [
        "/download/coroutine",
        "/download/synchronous",
        "/download/file?path={}",
        "/download/file/coroutine?path={}",
    ],
)
async def test_download_of_a_gigabyte_is_not_held_in_memory(port, path, tmp_path):
    """A stream or a file is sent at the client's speed; nothing piles up."""
    file = tmp_path / "file"
    with file.open("wb") as opened:
        opened.truncate(GIGABYTE)
    await ask(port, "GET /memory HTTP/1.1")
    before = await peak_memory(port)

    size, _ = await ask(port, f"GET {path.format(file)} HTTP/1.1")

    # A chunked body has its framing around it.
    assert GIGABYTE <= size < GIGABYTE * 1.01
    assert await peak_memory(port) - before < ALLOWED_GROWTH
