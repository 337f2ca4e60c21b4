"""A PostgreSQL cluster of the tests' own, from whatever binaries are installed."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

_END = 30
#: Tells the tests' own connections from those of the apps.
_OUTSIDE = "tests"

#: It is thrown away: nothing has to survive a crash.
_SETTINGS = {
    "autovacuum": "off",
    "deadlock_timeout": "100ms",
    "fsync": "off",
    "full_page_writes": "off",
    "listen_addresses": "127.0.0.1",
    "max_connections": "100",
    "shared_buffers": "16MB",
    "synchronous_commit": "off",
    "unix_socket_directories": "",
}


def binaries() -> Path | None:
    """Return the folder with ``initdb`` and ``postgres``, if they are installed."""
    folders = []
    if found := shutil.which("initdb"):
        folders.append(Path(found).parent)
    if config := shutil.which("pg_config"):
        shown = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False)
        folders.append(Path(shown.stdout.strip()))
    # Debian keeps them out of the PATH.
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    complete = (one for one in folders if (one / "initdb").exists() and (one / "postgres").exists())
    return next(complete, None)


class Cluster:
    """A running server, on a free port, that trusts everybody on this machine."""

    def __init__(self, port: int, user: str) -> None:
        self.port = port
        self._address = f"{user}@127.0.0.1:{port}"
        self._count = 0

    def version(self) -> str:
        """Return the server's version."""
        with self._connect("postgres") as connection:
            row = connection.execute("SHOW server_version").fetchone()
        assert row is not None
        return str(row[0])

    def create_database(self) -> Database:
        """Make an empty database."""
        self._count += 1
        name = f"test_{self._count}"
        with self._connect("postgres") as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return Database(name, self._address)

    def _connect(self, name: str) -> psycopg.Connection[Any]:
        return psycopg.connect(f"postgresql://{self._address}/{name}", autocommit=True)


class Database:
    """One database: its URLs, and a look at it from outside by a blocking driver."""

    def __init__(self, name: str, address: str) -> None:
        self._name = name
        self._address = address

    def url(self, driver: str) -> str:
        """Return the URL for SQLAlchemy with a driver."""
        return f"postgresql+{driver}://{self._address}/{self._name}"

    def connect(self) -> psycopg.Connection[Any]:
        """Connect, with every statement a transaction of its own."""
        return psycopg.connect(
            f"postgresql://{self._address}/{self._name}",
            application_name=_OUTSIDE,
            autocommit=True,
        )

    def states(self) -> list[str]:
        """Return the states of the app's connections: idle, active, idle in transaction."""
        with self.connect() as connection:
            rows = connection.execute(
                "SELECT state FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name <> %s ORDER BY 1",
                [_OUTSIDE],
            ).fetchall()
        return [state for (state,) in rows]

    def waiting(self) -> int:
        """Return how many connections wait for an advisory lock."""
        with self.connect() as connection:
            row = connection.execute(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            ).fetchone()
        assert row is not None
        return int(row[0])


@contextlib.contextmanager
def run_cluster(folder: Path) -> Iterator[Cluster]:
    """Start a cluster from the binaries in a folder; end it, and remove its data, afterwards."""
    # PostgreSQL refuses to run as root.
    owner = pwd.getpwuid(_unprivileged()) if os.geteuid() == 0 else None
    identity: dict[str, Any] = {}
    if owner is not None:
        identity = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
    # Not pytest's own temporary folder: nobody but its owner may enter that.
    with tempfile.TemporaryDirectory(prefix="flask-aio-postgresql-") as base:
        if owner is not None:
            os.chown(base, owner.pw_uid, owner.pw_gid)
        data = f"{base}/data"
        subprocess.run(
            [
                *(folder / "initdb", "--pgdata", data, "--username", "tests", "--auth", "trust"),
                *("--encoding", "UTF8", "--no-locale", "--no-sync"),
            ],
            cwd=base,
            check=True,
            capture_output=True,
            **identity,
        )
        settings = [f"--{name}={value}" for name, value in _SETTINGS.items()]
        port = _free_port()
        server = subprocess.Popen(
            [folder / "postgres", "-D", data, "-p", str(port), *settings],
            cwd=base,
            stderr=subprocess.PIPE,
            text=True,
            **identity,
        )
        assert server.stderr is not None
        drain = None
        try:
            seen = []
            for line in server.stderr:
                seen.append(line)
                if "ready to accept connections" in line:
                    break
            else:
                raise RuntimeError("PostgreSQL did not start:\n" + "".join(seen))
            # The errors that tests cause on purpose must not fill the pipe.
            drain = threading.Thread(target=server.stderr.read, daemon=True)
            drain.start()
            yield Cluster(port, "tests")
        finally:
            server.send_signal(signal.SIGQUIT)  # Immediate: there is nothing to keep.
            server.wait(_END)
            if drain is not None:
                drain.join(_END)
            server.stderr.close()


def _unprivileged() -> int:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_uid
    return 65534


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
