"""The id of a request: taken from its header or made, and passed on to whatever it causes."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from aiohttp import ClientRequest, ClientResponse, web
from flask import Flask

from .plugins import REQUEST_ID_KEY

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

Handle = Callable[..., Awaitable[web.StreamResponse]]

#: What is taken from a client: it goes to logs and to other servers.
_VALID: Final = re.compile(r"[!-~]{1,128}")
#: Header names that have a place of their own in an environ (RFC 9110, section 5.1).
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9-]+")
_MODES: Final = (None, "accept", "make")

_current: ContextVar[str | None] = ContextVar("flask_aio_request_id", default=None)


def current_request_id() -> str | None:
    """Return the id of the request that the current code works for, if it has one."""
    return _current.get()


class RequestIDFilter(logging.Filter):
    """Gives each log record the attribute ``request_id``; it lets every record pass.

    Added to a handler, it serves all loggers. Outside of a request the attribute is ``-``.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Give the record its attribute, and let it pass."""
        if not hasattr(record, "request_id"):  # The access log's have theirs.
            record.request_id = _current.get() or "-"
        return True


class RequestIDs:
    """The ids of one app's requests, as its configuration wants them."""

    def __init__(self, app: Flask) -> None:
        self._header: str = app.config["AIO_REQUEST_ID_HEADER"]
        self._lower = self._header.lower()
        self._environ_key = "HTTP_" + self._header.upper().replace("-", "_")
        self._accepts = app.config["AIO_REQUEST_ID"] == "accept"
        self._hosts = _hosts(app)

    @classmethod
    def configured(cls, app: Flask) -> RequestIDs | None:
        """Return them, or ``None`` if the app wants none."""
        return None if app.config["AIO_REQUEST_ID"] is None else cls(app)

    def around(self, handle: Handle) -> Handle:
        """Return a handler of requests, each of which has its id while it is answered."""

        async def handle_with_id(request: web.BaseRequest, **options: Any) -> web.StreamResponse:
            request_id = self._id_of(request)
            # In the connection's task: what it logs about this request has the id as well.
            token = _current.set(request_id)
            try:
                response = await handle(request, **options)
                if not response.prepared:  # It did not come from the app.
                    response.headers.setdefault(self._header, request_id)
                return response
            except web.HTTPException as answer:
                answer.headers.setdefault(self._header, request_id)
                raise
            finally:
                _current.reset(token)

        return handle_with_id

    def add_to_environ(self, _: web.BaseRequest, environ: dict[str, Any]) -> None:
        """Put the current id into an environ, also where the header is looked for."""
        environ[REQUEST_ID_KEY] = environ[self._environ_key] = _current.get()

    def wrap(self, app: WSGIApplication) -> WSGIApplication:
        """Return WSGI middleware that gives responses the header, unless the app has."""

        def call(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
                if not any(name.lower() == self._lower for name, _ in headers):
                    headers = [*headers, (self._header, environ[REQUEST_ID_KEY])]
                return start_response(status, headers, *error)

            return app(environ, start)

        return call

    @property
    def client_middlewares(self) -> tuple[Any, ...]:
        """Middlewares for the shared HTTP client."""
        return (self._send_on,) if self._hosts else ()

    async def _send_on(
        self,
        request: ClientRequest,
        send: Callable[[ClientRequest], Awaitable[ClientResponse]],
    ) -> ClientResponse:
        """Give an outgoing request the header; a redirect to another host comes here again."""
        request_id = _current.get()
        if request_id is not None and ("*" in self._hosts or request.url.host in self._hosts):
            request.headers.setdefault(self._header, request_id)
        return await send(request)

    def _id_of(self, request: web.BaseRequest) -> str:
        if self._accepts:
            given = request.headers.get(self._header, "")
            if _VALID.fullmatch(given):
                return given
        return os.urandom(16).hex()


def check_request_ids(app: Flask) -> None:
    """Refuse values of the ``AIO_REQUEST_ID*`` keys that mean nothing.

    :raises ValueError: a key has such a value.
    """
    mode = app.config["AIO_REQUEST_ID"]
    if mode not in _MODES:
        raise ValueError(
            f"app.config['AIO_REQUEST_ID'] must be None, 'accept' or 'make', not {mode!r}."
        )
    header = app.config["AIO_REQUEST_ID_HEADER"]
    if not isinstance(header, str) or not _HEADER_NAME.fullmatch(header):
        raise ValueError(
            "app.config['AIO_REQUEST_ID_HEADER'] must be a header name of letters, digits and"
            f" hyphens, not {header!r}."
        )
    _hosts(app)


def _hosts(app: Flask) -> frozenset[str]:
    hosts = app.config["AIO_REQUEST_ID_HOSTS"]
    if isinstance(hosts, str):
        hosts = [hosts]
    if not isinstance(hosts, (list, tuple, set, frozenset)) or not all(
        isinstance(host, str) and "/" not in host for host in hosts
    ):
        raise ValueError(
            "app.config['AIO_REQUEST_ID_HOSTS'] must be host names, like ['orders.internal'], or"
            f" '*', not {hosts!r}."
        )
    return frozenset(host.lower() for host in hosts)
