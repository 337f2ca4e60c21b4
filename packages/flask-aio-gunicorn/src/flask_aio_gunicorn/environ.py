"""What gunicorn's settings say about the environ, and about requests that are refused for it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from aiohttp import web
from gunicorn import SERVER_SOFTWARE
from gunicorn.config import Config
from gunicorn.http.wsgi import WSGIErrorsWrapper

from flask_aio_core.serving import plain_response

from .connection import WorkerConnection
from .request import keep_environ, proxy_info

#: The most that gunicorn takes, whatever the setting says; for the fields 0 stands for it, too.
_LONGEST_LINE: Final = 8190
_MOST_FIELDS: Final = 32768
#: What a limit of 0 stands for in gunicorn.
_FIELD_SIZE: Final = 8190
#: gunicorn takes 0 for no limit; the parser wants a number.
UNLIMITED: Final = 2**30


class Limits:
    """The limits of a request's head, as gunicorn means them."""

    def __init__(self, cfg: Config) -> None:
        #: Bytes of the request line.
        self.line = min(cfg.limit_request_line, _LONGEST_LINE) or UNLIMITED
        #: The number of header fields.
        self.fields = min(cfg.limit_request_fields or _MOST_FIELDS, _MOST_FIELDS)
        #: Bytes of a header field, with the end of its line.
        self.field_size = cfg.limit_request_field_size or _FIELD_SIZE

    def parser_options(self) -> dict[str, int]:
        """Return the arguments for aiohttp's parser, which does not count quite the same things."""
        # Different numbers, so that its errors can be told apart.
        field_size = self.field_size + (self.field_size == self.line)
        return {
            "max_line_size": self.line,
            "max_field_size": field_size,
            "max_headers": self.fields + 1,
        }

    def check(self, request: web.BaseRequest) -> None:
        """Refuse a request that the parser has let pass.

        :raises web.HTTPException: with 414 or 431.
        """
        # Method, target, "HTTP/1.1" and the two spaces between them.
        if len(request.method) + len(request.raw_path) + 10 > self.line:
            raise _refusal(
                HTTPStatus.REQUEST_URI_TOO_LONG,
                f"The request line is longer than {self.line} bytes.",
            )
        headers = request.raw_headers
        if len(headers) > self.fields:
            raise _refusal(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"There are more than {self.fields} header fields.",
            )
        for name, value in headers:
            if len(name) + len(value) + 4 > self.field_size:  # Name, ": ", value and CRLF.
                raise _refusal(
                    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                    f"A header field is longer than {self.field_size} bytes.",
                )


class Environ:
    """Completes the environ of each request by gunicorn's settings.

    :param keep: whether hooks or the access log will ask for it.
    """

    def __init__(self, cfg: Config, *, keep: bool) -> None:
        self._limits = Limits(cfg)
        self._keep = keep
        self._sendfile = cfg.sendfile is not False
        self._script_name = _native(os.environ.get("SCRIPT_NAME", ""))
        self._forwarder = frozenset(getattr(cfg, "forwarder_headers", ()))
        self._refuse_underscores = getattr(cfg, "header_map", "drop") == "refuse"
        self._scheme_headers: Mapping[str, str] = {
            "HTTP_" + name.replace("-", "_"): value
            for name, value in cfg.secure_scheme_headers.items()
        }
        self._cfg = cfg
        self._constant: dict[str, Any] = {
            "SERVER_SOFTWARE": SERVER_SOFTWARE,
            "wsgi.multiprocess": cfg.workers > 1,
        }
        self.reopen_errors()

    def reopen_errors(self) -> None:
        """Let ``wsgi.errors`` follow the error log to its new file."""
        self._constant["wsgi.errors"] = WSGIErrorsWrapper(self._cfg)

    def complete(self, request: web.BaseRequest, environ: dict[str, Any]) -> None:
        """Add to the environ of a request.

        :raises web.HTTPException: the request is refused.
        """
        environ.update(self._constant)
        if self._keep:
            keep_environ(request, environ)
        self._limits.check(request)
        connection = request.protocol
        assert isinstance(connection, WorkerConnection)
        if connection.proxied is not None:
            _add_proxied(environ, proxy_info(connection.proxied))
        self._take_underscores(request, environ, trusted=connection.is_trusted)
        if connection.is_trusted:
            self._set_scheme(request, environ)
        if self._script_name and not environ["SCRIPT_NAME"]:
            _mount(environ, self._script_name)
        if not self._sendfile:
            del environ["wsgi.file_wrapper"]

    def _set_scheme(self, request: web.BaseRequest, environ: dict[str, Any]) -> None:
        told = self._scheme_headers.keys() & environ.keys()
        if not told:
            return
        # Not from the environ, where fields of one name are joined: each is compared as a whole.
        schemes = {
            "https" if value.decode("latin-1") == self._scheme_headers[name] else "http"
            for raw_name, value in request.raw_headers
            if b"_" not in raw_name
            and (name := "HTTP_" + raw_name.decode("latin-1").upper().replace("-", "_")) in told
        }
        if len(schemes) > 1:
            raise _refusal(
                HTTPStatus.BAD_REQUEST, "The headers that tell the scheme contradict each other."
            )
        for scheme in schemes:
            environ["wsgi.url_scheme"] = scheme
            if "REMOTE_PORT" not in environ:  # A unix socket has no port to go by either.
                environ["SERVER_PORT"] = "443" if scheme == "https" else "80"

    def _take_underscores(
        self, request: web.BaseRequest, environ: dict[str, Any], *, trusted: bool
    ) -> None:
        """Take the headers with underscores that a trusted proxy may send."""
        script_name = None
        for raw_name, raw_value in request.raw_headers:
            if b"_" not in raw_name:
                continue
            name = raw_name.decode("latin-1").upper()
            if trusted and (name in self._forwarder or "*" in self._forwarder):
                value = raw_value.decode("latin-1")
                if name == "SCRIPT_NAME":
                    script_name = value
                environ["HTTP_" + name.replace("-", "_")] = value
            elif self._refuse_underscores:
                raise _refusal(
                    HTTPStatus.BAD_REQUEST, f"The header name {name!r} contains an underscore."
                )
        if script_name:
            _mount(environ, _native(script_name))


def _add_proxied(environ: dict[str, Any], info: dict[str, Any]) -> None:
    environ["PROXY_PROTOCOL"] = info["proxy_protocol"]
    if info["client_addr"] is not None:
        environ["REMOTE_ADDR"] = info["client_addr"]
        environ["REMOTE_PORT"] = str(info["client_port"])
        environ["PROXY_ADDR"] = info["proxy_addr"]
        environ["PROXY_PORT"] = str(info["proxy_port"])


def _mount(environ: dict[str, Any], script_name: str) -> None:
    """Move the path that the app is mounted at from PATH_INFO to SCRIPT_NAME (PEP 3333)."""
    path = environ["PATH_INFO"]
    rest = path.removeprefix(script_name)
    if rest == path or (rest and not rest.startswith("/") and not script_name.endswith("/")):
        raise _refusal(
            HTTPStatus.NOT_FOUND,
            f"The app is mounted at {script_name!r}, and this is elsewhere.",
        )
    environ["SCRIPT_NAME"] = script_name
    environ["PATH_INFO"] = rest


def _native(path: str) -> str:
    """Decode a path that may be percent-encoded, as PEP 3333 wants it."""
    return unquote_to_bytes(path).decode("latin-1")


class _Refused(web.HTTPException):
    """An answer that the environ's checks give in place of the app."""

    status_code = HTTPStatus.BAD_REQUEST

    def __init__(self, response: web.Response) -> None:
        self.status_code = HTTPStatus(response.status)
        super().__init__(text=response.text)
        self.force_close()


def _refusal(status: HTTPStatus, reason: str) -> web.HTTPException:
    return _Refused(plain_response(status, reason))
