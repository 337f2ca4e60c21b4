"""What the watchdog costs: CPU time of an idle and of a busy server, with it and without.

Run by ``python -m benchmarks.watchdog_cost``. It prints milliseconds of CPU time per second of an
idle process, and microseconds per request of a busy one; what counts are the ratios.
"""

from __future__ import annotations

import contextlib
import http.client
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Final

IDLE_SECONDS: Final = 30
REQUESTS: Final = 3000
ROUNDS: Final = 9

#: Whether the process is in debug mode, AIO_WATCHDOG, and whether a monitor reads the gauges.
KINDS: Final = {
    "off": (False, False, False),
    "gauges": (False, False, True),
    "production": (False, True, True),
    "debug": (True, True, True),
}


def serve(kind: str) -> None:
    """Serve one JSON view, and the process's CPU time so far."""
    from flask import Flask

    from flask_aio_core import AioHTTP

    debug, watchdog, reads_gauges = KINDS[kind]
    app = Flask("cost")
    app.config["AIO_WATCHDOG"] = watchdog
    aio = AioHTTP(app)

    @app.get("/")
    async def index() -> dict[str, str]:
        return {"message": "Hello, World!"}

    @app.get("/cpu")
    async def cpu() -> str:
        if reads_gauges:
            aio.gauges()
        return repr(time.process_time())

    aio.run(port=0, debug=debug, use_reloader=False, use_debugger=False, access_log=False)


class Server:
    """A server in a process of its own, and a connection to it."""

    def __init__(self, kind: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.watchdog_cost", kind],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        line = next(one for one in self._process.stdout if "Running on" in one)
        host, _, port = line.partition("//")[2].split()[0].partition(":")
        self._connection = http.client.HTTPConnection(host, int(port), timeout=60)

    def get(self, path: str) -> str:
        """GET a path."""
        self._connection.request("GET", path)
        return self._connection.getresponse().read().decode()

    def cpu(self) -> float:
        """Return the seconds of CPU time that the process has used."""
        return float(self.get("/cpu"))

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.terminate()
        self._process.wait(60)


@contextlib.contextmanager
def servers() -> Iterator[dict[str, Server]]:
    """Run a server of each kind."""
    running: dict[str, Server] = {}
    try:
        for kind in KINDS:
            running[kind] = Server(kind)
        yield running
    finally:
        for server in running.values():
            server.close()


def main() -> None:
    """Measure and print a row for each kind."""
    with servers() as running:
        for server in running.values():
            for _ in range(500):
                server.get("/")
        before = {kind: server.cpu() for kind, server in running.items()}
        time.sleep(IDLE_SECONDS)
        idle = {kind: server.cpu() - before[kind] for kind, server in running.items()}
        busy: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for _ in range(ROUNDS):
            for kind, server in running.items():
                begun = server.cpu()
                for _ in range(REQUESTS):
                    server.get("/")
                busy[kind].append((server.cpu() - begun) / REQUESTS)
    print("kind        idle, ms/s   busy, us/request")
    for kind in KINDS:
        per_second = 1000 * idle[kind] / IDLE_SECONDS
        print(f"{kind:10}  {per_second:10.2f}   {1e6 * statistics.median(busy[kind]):16.0f}")


if __name__ == "__main__":
    serve(sys.argv[1]) if len(sys.argv) > 1 else main()
