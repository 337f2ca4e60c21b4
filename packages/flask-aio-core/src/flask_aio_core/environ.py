"""The WSGI environ of an aiohttp request (PEP 3333, "environ Variables")."""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from aiohttp import web

from .connection import Connection
from .file_wrapper import FileWrapper

#: Content codings that aiohttp undoes unless it is told not to.
_UNDONE_CODINGS = frozenset({"gzip", "deflate", "br", "zstd"})


def build_environ(
    request: web.BaseRequest, *, script_name: str = "", body_decompressed: bool = False
) -> dict[str, Any]:
    """Return the environ of a request, complete but for ``wsgi.input``.

    Every string is what PEP 3333 calls native: bytes of the wire, decoded as latin-1. Headers whose
    names contain an underscore are left out: in the environ they would be the same as the header
    with a hyphen, which a proxy in front may have checked and this one not.

    :param script_name: the path that the app is mounted at, percent-decoded, without a final slash.
    :param body_decompressed: whether the server has undone the body's content coding, so that the
        headers which describe the body on the wire must not reach the app.
    """
    uri = _native(request.raw_path)
    target, host = _split_target(uri)
    path, _, query = target.partition("?")
    if "%" in path:
        path = unquote_to_bytes(path.encode("latin-1")).decode("latin-1")
    if script_name and path.startswith(script_name):
        path = path[len(script_name) :]
    scheme = request.scheme
    environ = _of_connection(request)
    environ["REQUEST_METHOD"] = request.method
    environ["SCRIPT_NAME"] = script_name
    environ["PATH_INFO"] = path
    environ["QUERY_STRING"] = query
    environ["RAW_URI"] = environ["REQUEST_URI"] = uri
    environ["SERVER_PROTOCOL"] = _protocol(*request.version)
    # A middleware of aiohttp may have cloned the request with another client or scheme.
    environ["REMOTE_ADDR"] = request.remote or ""
    environ["wsgi.url_scheme"] = scheme
    if "SERVER_PORT" not in environ:
        environ["SERVER_PORT"] = "443" if scheme == "https" else "80"
    environ["wsgi.errors"] = sys.stderr
    environ["aiohttp.request"] = request
    _add_headers(environ, request)
    if host:
        # An absolute request target takes precedence over Host (RFC 9112, section 3.2.2).
        environ["HTTP_HOST"] = host
    if body_decompressed:
        _forget_coding(environ)
    if "CONTENT_LENGTH" not in environ and request.body_exists:
        # Not in the PEP, but a convention: reading ends where the body does, though its length is
        # not known.
        environ["wsgi.input_terminated"] = True
    return environ


def _of_connection(request: web.BaseRequest) -> dict[str, Any]:
    """Return a new dictionary with what all requests of a connection have in common."""
    connection = request.protocol
    if not isinstance(connection, Connection):
        return _make_of_connection(request)
    if connection.environ is None:
        connection.environ = _make_of_connection(request)
    return connection.environ.copy()


def _make_of_connection(request: web.BaseRequest) -> dict[str, Any]:
    transport: Any = request.transport  # None if the client has gone.
    sockname = transport.get_extra_info("sockname") if transport is not None else None
    peername = transport.get_extra_info("peername") if transport is not None else None
    environ: dict[str, Any] = {
        "SERVER_NAME": "localhost",
        "SERVER_SOFTWARE": "flask-aio",
        "wsgi.version": (1, 0),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": FileWrapper,
    }
    # The addresses of a unix socket are strings, which have no place in an environ.
    if isinstance(sockname, tuple):
        environ["SERVER_NAME"] = str(sockname[0])
        environ["SERVER_PORT"] = str(sockname[1])
    if isinstance(peername, tuple):
        environ["REMOTE_PORT"] = str(peername[1])
    return environ


def _add_headers(environ: dict[str, Any], request: web.BaseRequest) -> None:
    for raw_name, raw_value in request.raw_headers:
        name = _environ_key(raw_name)
        if name is None:
            continue
        value = raw_value.decode("latin-1")
        if name in environ:
            # Cookie is the one list that is not separated by commas (RFC 9113, section 8.2.3).
            separator = "; " if name == "HTTP_COOKIE" else ","
            value = f"{environ[name]}{separator}{value}"
        environ[name] = value


@lru_cache(maxsize=1024)
def _environ_key(raw_name: bytes) -> str | None:
    """Return the environ's name of a header; ``None`` for one that must be left out."""
    if b"_" in raw_name:
        return None
    name = raw_name.decode("latin-1").upper().replace("-", "_")
    return name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + name


@lru_cache(maxsize=8)
def _protocol(major: int, minor: int) -> str:
    return f"HTTP/{major}.{minor}"


def _forget_coding(environ: dict[str, Any]) -> None:
    """Forget the headers that describe a body whose coding the server has undone."""
    if environ.get("HTTP_CONTENT_ENCODING", "").lower() in _UNDONE_CODINGS:
        del environ["HTTP_CONTENT_ENCODING"]
        environ.pop("CONTENT_LENGTH", None)


def _native(text: str) -> str:
    """Turn what aiohttp has decoded as UTF-8, with surrogate escapes, into PEP 3333's latin-1."""
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("latin-1")


def _split_target(target: str) -> tuple[str, str]:
    """Return path with query, and the host if the request target is absolute (RFC 9112, 3.2)."""
    if target.startswith("/") or "://" not in target:
        return target, ""
    parts = urlsplit(target)
    path = parts.path or "/"
    return (f"{path}?{parts.query}" if parts.query else path), parts.netloc
