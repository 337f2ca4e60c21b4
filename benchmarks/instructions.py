"""Counts the instructions of one request, which no busy machine changes.

Requests go through the server's protocol in memory, without sockets, under valgrind's callgrind. A
process that serves many is compared with one that serves few: what is left is the requests' alone.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from flask_aio_core.serving import HTTPServer

_ROOT: Final = Path(__file__).parents[1]
_FEW, _MANY = 50, 350
#: What is counted, and the path that is requested.
_CASES: Final = {
    "the floor": ("floor", "/synchronous"),
    "coroutine view": ("flask-aio", "/coroutine"),
    "synchronous view, in its thread": ("flask-aio", "/synchronous"),
}


class _Memory(asyncio.Transport):
    """A connection to nobody: tells when a whole response was written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.answered = asyncio.Event()

    def write(self, data: Any) -> None:
        if bytes(data).endswith(b"\n"):  # As Flask's JSON does.
            self.answered.set()

    def writelines(self, pieces: Any) -> None:
        self.write(b"".join(pieces))

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def is_reading(self) -> bool:
        return True

    def close(self) -> None:
        pass

    abort = close


def _application(name: str) -> web.Application:
    if name == "floor":
        from .apps.floor import make_application

        return make_application()
    from .apps.flask_aio import app

    return app.aiohttp_app  # type: ignore[attr-defined, no-any-return]


async def _serve(make: Callable[[], web.Application], path: str, count: int) -> None:
    message = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n".encode()
    server = HTTPServer(make(), keepalive=75, access_log=None)
    await server.start()
    assert server.connections is not None
    protocol, transport = server.connections(), _Memory()
    protocol.connection_made(transport)
    for _ in range(count):
        transport.answered.clear()
        protocol.data_received(message)
        await transport.answered.wait()
    protocol.connection_lost(None)
    await server.stop(1)


def _count(name: str, path: str, count: int) -> int:
    """Return the instructions of a process that serves so many requests."""
    with tempfile.TemporaryDirectory() as directory:
        output = subprocess.run(
            [
                *("valgrind", "--tool=callgrind", f"--callgrind-out-file={directory}/out"),
                *(sys.executable, "-m", "benchmarks.instructions", name, path, str(count)),
            ],
            cwd=_ROOT,
            env={"PYTHONHASHSEED": "0", "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        ).stderr
    found = re.search(r"Collected : (\d+)", output)
    assert found is not None, output
    return int(found[1])


def main() -> None:
    """Print a table of what one request takes."""
    if len(sys.argv) > 1:
        name, path, count = sys.argv[1:]
        asyncio.run(_serve(lambda: _application(name), path, int(count)))
        return
    print("| one request for the same JSON | instructions | of the floor |\n| --- | --- | --- |")
    floor = 0.0
    for title, (name, path) in _CASES.items():
        each = (_count(name, path, _MANY) - _count(name, path, _FEW)) / (_MANY - _FEW)
        floor = floor or each
        print(f"| {title} | {round(each, -3):,.0f} | {each / floor:.2f} |", flush=True)


if __name__ == "__main__":
    main()
