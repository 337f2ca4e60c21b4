"""gunicorn's view of a request and a response: what its hooks and its access log are given."""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web
from proxyprotocol.result import ProxyResult

from flask_aio_core.serving import WSGIResponse, build_environ

from .connection import WorkerConnection

#: Where a request keeps its environ until the hooks and the access log have seen it.
_ENVIRON: Final[Any] = (
    web.RequestKey("flask_aio_gunicorn.environ", dict)  # aiohttp 3.14 warns of other keys.
    if hasattr(web, "RequestKey")
    else "flask_aio_gunicorn.environ"
)


class Request:
    """An aiohttp request with the attributes of gunicorn's.

    It has no ``body``: that belongs to the app.
    """

    def __init__(self, request: web.BaseRequest) -> None:
        self._request = request

    @property
    def method(self) -> str:
        """The method, as it was sent."""
        return self._request.method

    @property
    def uri(self) -> str:
        """The request target, as it was sent."""
        return self._request.raw_path

    @property
    def path(self) -> str:
        """The path, not decoded."""
        return self._request.rel_url.raw_path

    @property
    def query(self) -> str:
        """The query, without its question mark, not decoded."""
        return self._request.rel_url.raw_query_string

    @property
    def fragment(self) -> str:
        """The fragment, which a client should not send."""
        return self._request.rel_url.raw_fragment

    @property
    def version(self) -> tuple[int, int]:
        """The version of HTTP."""
        major, minor = self._request.version
        return major, minor

    @property
    def scheme(self) -> str:
        """``http`` or ``https``, of the connection itself."""
        return self._request.scheme

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Names, in upper case, and values."""
        return [
            (name.decode("latin-1").upper(), value.decode("latin-1"))
            for name, value in self._request.raw_headers
        ]

    @property
    def peer_addr(self) -> Any:
        """The address of the connection's other end."""
        transport: Any = self._request.transport  # None when the client has gone.
        return transport.get_extra_info("peername") if transport is not None else None

    @property
    def remote_addr(self) -> Any:
        """The client's address, which the PROXY protocol may have told."""
        return self._request.protocol.peername

    @property
    def proxy_protocol_info(self) -> dict[str, Any] | None:
        """What the PROXY protocol said."""
        connection = self._request.protocol
        assert isinstance(connection, WorkerConnection)
        return proxy_info(connection.proxied) if connection.proxied is not None else None


class Response:
    """An aiohttp response with the attributes of gunicorn's.

    :param method: the request's.
    """

    def __init__(self, response: web.StreamResponse, method: str) -> None:
        self._response = response
        self._method = method

    @property
    def status(self) -> str:
        """Number and reason."""
        return f"{self._response.status} {self._response.reason}"

    @property
    def status_code(self) -> int:
        """The number."""
        return self._response.status

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Names and values."""
        return list(self._response.headers.items())

    @property
    def sent(self) -> int | None:
        """Bytes of the body that were sent, if it is known."""
        response = self._response
        if isinstance(response, WSGIResponse):
            return response.sent
        if isinstance(response, web.WebSocketResponse):
            return None
        # Of a handler of aiohttp's own: it may declare the length of what HEAD does not get.
        return 0 if self._method == "HEAD" else response.content_length

    @property
    def response_length(self) -> int | None:
        """The declared length of the body."""
        return self._response.content_length


def proxy_info(proxied: ProxyResult) -> dict[str, Any]:
    """Return what gunicorn calls ``proxy_protocol_info``."""
    client: Any = proxied.peername
    proxy: Any = proxied.sockname
    if not isinstance(client, tuple) or not isinstance(proxy, tuple):
        client = proxy = (None, None)
    kind = {"IPv4": "TCP4", "IPv6": "TCP6", "UNKNOWN": "UNSPEC"}.get(
        proxied.type.name, proxied.type.name
    )
    return {
        "proxy_protocol": kind,
        "client_addr": client[0],
        "client_port": client[1],
        "proxy_addr": proxy[0],
        "proxy_port": proxy[1],
    }


def keep_environ(request: web.BaseRequest, environ: dict[str, Any]) -> None:
    """Remember the environ that the app was called with."""
    request[_ENVIRON] = environ


def kept_environ(request: web.BaseRequest) -> dict[str, Any]:
    """Return it; a request that never came to the app has one for the log all the same."""
    environ: dict[str, Any] | None = request.get(_ENVIRON)
    return build_environ(request) if environ is None else environ


def drop_environ(request: web.BaseRequest) -> None:
    """Forget it: the two refer to each other."""
    request.pop(_ENVIRON, None)
