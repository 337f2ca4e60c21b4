"""A server as a process group of its own: started, measured, ended whole."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

_ROOT = Path(__file__).resolve().parent.parent
_TICK = 1 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
#: Seconds that a server may take to answer its first request, and to end.
_START, _END = 30.0, 10.0


class ServerError(RuntimeError):
    """A server did not start, or did not do what it was asked for."""


def processors() -> tuple[set[int], set[int]]:
    """Return the processors of the load and of the server: the same where there is only one."""
    available = sorted(os.sched_getaffinity(0))
    return {available[0]}, {available[-1]}


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class ServerProcess:
    """A running server; used as a context manager.

    :param command: what to run; it must listen at ``port`` of 127.0.0.1.
    :param cpus: the processors that it may run on.
    :param first_path: what to ask for until it is answered.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        port: int,
        cpus: set[int],
        environment: Mapping[str, str],
        first_path: str,
    ) -> None:
        if _listens(port):
            raise ServerError(f"Port {port} is taken.")
        self.port = port
        self._first_path = first_path
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - stop() closes it.
        inherited = {name: value for name, value in os.environ.items() if name != "WEB_CONCURRENCY"}
        self._started = time.perf_counter()
        self._process = subprocess.Popen(
            command,
            cwd=_ROOT,
            env={**inherited, "PYTHONPATH": _python_path(), **environment},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        # Its threads and children inherit this; the interpreter has hardly begun to start.
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(self._process.pid, cpus)
        #: Seconds until the first answer.
        self.start_seconds = 0.0

    def __enter__(self) -> ServerProcess:
        try:
            self._wait_for_answer()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def cpu_seconds(self) -> float:
        """Return the CPU time, user and system, that all processes of the group have used."""
        return sum((int(fields[11]) + int(fields[12])) * _TICK for _, fields in self._group())

    def resident(self) -> int:
        """Return the bytes that the group has in memory."""
        return sum(int(fields[21]) * _PAGE for _, fields in self._group())

    def forget_peak(self) -> None:
        """Let :meth:`peak` begin anew."""
        for pid, _ in self._group():
            with contextlib.suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak(self) -> int:
        """Return the most bytes that the group's processes had in memory, each at its time."""
        total = 0
        for pid, _ in self._group():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                    if line.startswith("VmHWM:"):
                        total += int(line.split()[1]) * 1024
        return total

    def log(self) -> str:
        """Return the last of what the server has written."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-2000:]

    def stop(self) -> None:
        """End all processes of the group, and wait until nothing listens any more."""
        for sent, patience in ((signal.SIGTERM, 1.0), (signal.SIGKILL, _END)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, sent)
            deadline = time.monotonic() + patience
            while time.monotonic() < deadline:
                self._process.poll()  # The first one must be reaped to count as ended.
                if not any(True for _ in self._group()) and not _listens(self.port):
                    self._log.close()
                    return
                time.sleep(0.02)
        raise ServerError(f"Something still runs or listens at port {self.port}.")

    def _group(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the processes of the group, with the fields of their ``stat`` from the third on."""
        for directory in os.scandir("/proc"):
            if not directory.name.isdigit():
                continue
            try:
                fields = Path(directory.path, "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == self._process.pid and fields[0] != "Z":
                yield int(directory.name), fields

    def _wait_for_answer(self) -> None:
        request = f"GET {self._first_path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        while time.perf_counter() - self._started < _START:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), 5) as connection,
            ):
                connection.sendall(request.encode())
                status = connection.recv(65536)
                if status.startswith(b"HTTP/1.1 200"):
                    self.start_seconds = time.perf_counter() - self._started
                    return
                if status:
                    raise ServerError(f"The first answer was {status[:80]!r}.\n{self.log()}")
            if self._process.poll() is not None:
                raise ServerError(f"The server ended.\n{self.log()}")
            time.sleep(0.005)
        raise ServerError(f"The server did not answer in {_START:.0f} seconds.\n{self.log()}")


def module(name: str, *arguments: str) -> list[str]:
    """Return the command that runs a Python module."""
    return [sys.executable, "-m", name, *arguments]


def _python_path() -> str:
    """Return where servers find the benchmarks, before what the environment says."""
    return os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
