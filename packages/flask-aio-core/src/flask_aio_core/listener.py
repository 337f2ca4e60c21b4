"""The listening socket of ``aio.run``: opened before anything else, with errors in one line."""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from os import PathLike
from typing import Final

import click

#: Werkzeug's reloader hands the socket to the process that serves under this name too.
_FD_VARIABLE: Final = "WERKZEUG_SERVER_FD"
_BACKLOG: Final = 1024
_UNKNOWN_HOST: Final = {
    getattr(socket, name, None) for name in ("EAI_NONAME", "EAI_NODATA", "EAI_AGAIN", "EAI_FAIL")
} - {None}


def listening_socket(
    host: str, port: int, path: str | PathLike[str] | None = None
) -> socket.socket:
    """Open a socket, or end the program with one line that says why it cannot be.

    :raises SystemExit: with status 1, after the reason was printed.
    """
    where = str(path) if path is not None else f"{host}:{port}"
    try:
        return _unix_socket(path) if path is not None else tcp_socket(host, port)
    except (OSError, OverflowError) as error:
        click.echo(f"Cannot listen on {where}: {_explain(error, path is not None)}", err=True)
        sys.exit(1)


def share_with_reloader(sock: socket.socket) -> None:
    """Let the process that the reloader starts inherit the socket: the port stays taken."""
    sock.set_inheritable(True)
    os.environ[_FD_VARIABLE] = str(sock.fileno())


def inherited_socket() -> socket.socket:
    """Return the socket that the reloader's parent process has opened."""
    return socket.socket(fileno=int(os.environ[_FD_VARIABLE]))


def site_url(sock: socket.socket, *, secure: bool) -> str:
    """Return the address to open in a browser."""
    scheme = "https" if secure else "http"
    address = sock.getsockname()
    if not isinstance(address, tuple):
        return f"{scheme}+unix://{os.path.abspath(os.fsdecode(address))}"
    host, port = address[:2]
    if host in ("0.0.0.0", "::"):
        # Not an address that can be opened; this one always leads to it.
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def tcp_socket(host: str, port: int) -> socket.socket:
    """Open a socket for TCP; the caller tells the user of an error."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=_BACKLOG)


def _unix_socket(path: str | PathLike[str]) -> socket.socket:
    path = os.fspath(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_dead_socket(path)
        sock.bind(path)
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _remove_dead_socket(path: str) -> None:
    """Remove the file that a server which was killed has left; not that of one which runs."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return  # bind will say that it exists.
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)


def _explain(error: Exception, is_unix: bool) -> str:
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.EADDRINUSE:
        return "the address is already in use. Stop the program that uses it, or choose another" + (
            " path." if is_unix else " port, for example 0 for any free one."
        )
    if code == errno.EACCES:
        return "permission denied." + ("" if is_unix else " Ports below 1024 need privileges.")
    # The errors of getaddrinfo have numbers of their own; create_server hides their class.
    if code == errno.EADDRNOTAVAIL or code in _UNKNOWN_HOST:
        return "this machine has no such address."
    return str(error)
