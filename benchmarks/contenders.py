"""Who is measured: servers with their recommended settings, one process each, no access log."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Final, Literal

from .scenarios import (
    BROADCAST,
    COROUTINE,
    DOWNLOAD,
    ECHO,
    FORM,
    IDLE,
    MIXED,
    START,
    STREAM,
    SYNCHRONOUS,
    TEMPLATE,
    UPLOAD,
    UPSTREAM,
    WAIT,
)
from .server_process import module

Kind = Literal["ours", "reference", "peer"]


@dataclass(frozen=True)
class Contender:
    """A server, and what it is asked to do."""

    name: str
    kind: Kind
    #: Returns what to run for a port.
    command: Callable[[int], list[str]]
    #: The modules without which it is skipped.
    requires: tuple[str, ...]
    #: The keys of its scenarios.
    scenarios: tuple[str, ...]
    #: Which event loop it has, for those that there are with both.
    loop: Literal["asyncio", "uvloop", ""] = ""

    def missing(self) -> list[str]:
        """Return the modules that are not installed."""
        return [name for name in self.requires if find_spec(name) is None]

    @property
    def first_path(self) -> str:
        """The path that shows that the server has started."""
        return "/synchronous" if SYNCHRONOUS in self.scenarios else "/coroutine"


_SOCKETS: Final = (ECHO, IDLE, BROADCAST)
_BOTH_KINDS: Final = (SYNCHRONOUS, COROUTINE)
_HTTP: Final = (WAIT, UPSTREAM, TEMPLATE, FORM, STREAM, DOWNLOAD, UPLOAD, START)
_EVERYTHING: Final = (*_BOTH_KINDS, *_HTTP, MIXED, *_SOCKETS)
_RAW: Final = (COROUTINE, *_HTTP, *_SOCKETS)
_FLOOR: Final = (SYNCHRONOUS, TEMPLATE, FORM, START)


def _own(what: str, *arguments: str) -> Callable[[int], list[str]]:
    return lambda port: module("benchmarks.serve", what, f"--port={port}", *arguments)


@cache
def _has_control_socket() -> bool:
    """Whether this release of gunicorn opens a control socket unless it is told not to."""
    shown = subprocess.run(
        [sys.executable, "-m", "gunicorn", "--help"], capture_output=True, text=True, check=False
    )
    return "--no-control-socket" in shown.stdout


def gunicorn(app: str, worker: str, *arguments: str) -> Callable[[int], list[str]]:
    """Return what runs an application of ``apps`` by gunicorn, for a port."""

    def command(port: int) -> list[str]:
        return module(
            "gunicorn",
            f"benchmarks.apps.{app}:app",
            f"--bind=127.0.0.1:{port}",
            f"--worker-class={worker}",
            "--workers=1",
            "--log-level=warning",
            "--keep-alive=75",
            "--worker-connections=4000",
            *(["--no-control-socket"] if _has_control_socket() else []),
            *arguments,
        )

    return command


def uvicorn(app: str) -> Callable[[int], list[str]]:
    """Return what runs an application of ``apps`` by uvicorn, for a port."""
    return lambda port: module(
        "uvicorn",
        f"benchmarks.apps.{app}:app",
        f"--port={port}",
        "--loop=uvloop",
        "--http=httptools",
        "--no-access-log",
        "--log-level=warning",
    )


def _hypercorn(app: str) -> Callable[[int], list[str]]:
    return lambda port: module(
        "hypercorn",
        f"benchmarks.apps.{app}:app",
        f"--bind=127.0.0.1:{port}",
        "--worker-class=uvloop",
        "--workers=1",
        "--log-level=warning",
        "--backlog=2048",
    )


def _granian(*arguments: str) -> Callable[[int], list[str]]:
    return lambda port: module(
        "granian",
        "benchmarks.apps.wsgi:app",
        "--interface=wsgi",
        f"--port={port}",
        "--workers=1",
        "--log-level=warning",
        "--no-ws",
        *arguments,
    )


_WSGI: Final = ("urllib3",)
_COROUTINES: Final = (*_WSGI, "asgiref")
_UVICORN: Final = ("uvicorn", "uvloop", "httptools")

RAW, RAW_UVLOOP = "raw aiohttp", "raw aiohttp, uvloop"
FLOOR, FLOOR_UVLOOP = "the floor", "the floor, uvloop"
AIO_RUN, AIO_RUN_UVLOOP = "flask-aio, aio.run", "flask-aio, aio.run, uvloop"
WORKER, WORKER_UVLOOP = "flask-aio, AioWorker", "flask-aio, AioWorker, uvloop"
QUART = "Quart on uvicorn"
GTHREAD = "Flask on gunicorn gthread"
GRANIAN = "Flask on Granian"

CONTENDERS: Final[tuple[Contender, ...]] = (
    Contender(RAW, "reference", _own("raw"), (), _RAW, "asyncio"),
    Contender(RAW_UVLOOP, "reference", _own("raw", "--uvloop"), ("uvloop",), _RAW, "uvloop"),
    Contender(FLOOR, "reference", _own("floor"), _WSGI, _FLOOR, "asyncio"),
    Contender(
        FLOOR_UVLOOP, "reference", _own("floor", "--uvloop"), (*_WSGI, "uvloop"), _FLOOR, "uvloop"
    ),
    Contender(AIO_RUN, "ours", _own("flask-aio"), (), _EVERYTHING, "asyncio"),
    Contender(
        AIO_RUN_UVLOOP, "ours", _own("flask-aio", "--uvloop"), ("uvloop",), _EVERYTHING, "uvloop"
    ),
    Contender(
        WORKER,
        "ours",
        gunicorn("flask_aio", "flask_aio_gunicorn.AioWorker"),
        ("gunicorn", "flask_aio_gunicorn"),
        _EVERYTHING,
        "asyncio",
    ),
    Contender(
        WORKER_UVLOOP,
        "ours",
        gunicorn("flask_aio", "flask_aio_gunicorn.AioUVLoopWorker"),
        ("gunicorn", "flask_aio_gunicorn", "uvloop"),
        _EVERYTHING,
        "uvloop",
    ),
    Contender(QUART, "peer", uvicorn("quart_app"), ("quart", *_UVICORN), _EVERYTHING),
    Contender(
        "Quart on Hypercorn",
        "peer",
        _hypercorn("quart_app"),
        ("quart", "hypercorn", "uvloop"),
        _EVERYTHING,
    ),
    Contender(
        GTHREAD,
        "peer",
        gunicorn("wsgi", "gthread", "--threads=32"),
        ("gunicorn", *_COROUTINES),
        (*_BOTH_KINDS, *_HTTP),
    ),
    Contender(
        "Flask on gunicorn gevent",
        "peer",
        gunicorn("wsgi", "gevent"),
        ("gunicorn", "gevent", *_WSGI),
        # asgiref cannot run a coroutine in one greenlet while it runs another's.
        (SYNCHRONOUS, *_HTTP),
    ),
    Contender(
        "Flask on gunicorn sync",
        "peer",
        gunicorn("wsgi", "sync"),
        ("gunicorn", *_COROUTINES),
        # The last of 1,000 connections would wait for 100 seconds.
        tuple(key for key in (*_BOTH_KINDS, *_HTTP) if key != WAIT),
    ),
    Contender(GRANIAN, "peer", _granian(), ("granian", *_COROUTINES), (*_BOTH_KINDS, *_HTTP)),
    Contender(
        "Flask by a2wsgi on uvicorn",
        "peer",
        uvicorn("asgi"),
        ("a2wsgi", *_UVICORN, *_COROUTINES),
        (*_BOTH_KINDS, *_HTTP),
    ),
    Contender(
        "Flask-Sock on gunicorn gthread",
        "peer",
        gunicorn("flask_sock_app", "gthread", "--threads=100"),
        ("flask_sock", "gunicorn", *_WSGI),
        (ECHO,),  # A thread for each socket: the others need more than it has.
    ),
    Contender(
        "Flask-Sock on gunicorn gevent",
        "peer",
        gunicorn("flask_sock_app", "gevent"),
        ("flask_sock", "gunicorn", "gevent", *_WSGI),
        _SOCKETS,
    ),
    Contender(
        "Starlette on uvicorn",
        "peer",
        uvicorn("starlette_app"),
        ("starlette", *_UVICORN),
        _EVERYTHING,
    ),
)

#: Enough for the goals on one event loop: what the short run measures.
QUICK: Final = (RAW, FLOOR, AIO_RUN, AIO_RUN_UVLOOP, QUART, GTHREAD, GRANIAN)
