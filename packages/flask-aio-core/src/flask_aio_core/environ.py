"""The WSGI environ of an aiohttp request (PEP 3333, "environ Variables")."""

from __future__ import annotations

import sys
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from aiohttp import hdrs, web

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
    raw_path, _, query = target.partition("?")
    path = unquote_to_bytes(raw_path.encode("latin-1")).decode("latin-1")
    if script_name and path.startswith(script_name):
        path = path[len(script_name) :]
    scheme = request.scheme
    transport = request.transport
    server_name, server_port = _address(
        transport.get_extra_info("sockname") if transport is not None else None
    )
    version = request.version
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": script_name,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "RAW_URI": uri,
        "REQUEST_URI": uri,
        "SERVER_NAME": server_name or "localhost",
        "SERVER_PORT": server_port or ("443" if scheme == "https" else "80"),
        "SERVER_PROTOCOL": f"HTTP/{version[0]}.{version[1]}",
        "SERVER_SOFTWARE": "flask-aio",
        "REMOTE_ADDR": request.remote or "",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scheme,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": FileWrapper,
        "aiohttp.request": request,
    }
    remote_port = _address(transport.get_extra_info("peername") if transport is not None else None)[
        1
    ]
    if remote_port:
        environ["REMOTE_PORT"] = remote_port
    _add_headers(environ, request)
    if host:
        # An absolute request target takes precedence over Host (RFC 9112, section 3.2.2).
        environ["HTTP_HOST"] = host
    coding = request.headers.get(hdrs.CONTENT_ENCODING, "").lower()
    if body_decompressed and coding in _UNDONE_CODINGS:
        environ.pop("HTTP_CONTENT_ENCODING", None)
        environ.pop("CONTENT_LENGTH", None)
    if "CONTENT_LENGTH" not in environ and request.body_exists:
        # Not in the PEP, but a convention: reading ends where the body does, though its length is
        # not known.
        environ["wsgi.input_terminated"] = True
    return environ


def _add_headers(environ: dict[str, Any], request: web.BaseRequest) -> None:
    for raw_name, raw_value in request.raw_headers:
        if b"_" in raw_name:
            continue
        name = raw_name.decode("latin-1").upper().replace("-", "_")
        value = raw_value.decode("latin-1")
        if name not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            name = "HTTP_" + name
        if name in environ:
            # Cookie is the one list that is not separated by commas (RFC 9113, section 8.2.3).
            separator = "; " if name == "HTTP_COOKIE" else ","
            value = f"{environ[name]}{separator}{value}"
        environ[name] = value


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


def _address(address: Any) -> tuple[str, str]:
    """Return host and port of a socket address; both are empty for a unix socket."""
    if isinstance(address, tuple):
        return str(address[0]), str(address[1])
    return "", ""
