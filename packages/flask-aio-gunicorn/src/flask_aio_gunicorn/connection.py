"""A client's connection, and whom it is believed: a trusted proxy, the PROXY protocol."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from http import HTTPStatus
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any, Final

from gunicorn.config import Config
from proxyprotocol import (
    ProxyProtocol,
    ProxyProtocolChecksumError,
    ProxyProtocolIncompleteError,
)
from proxyprotocol.detect import ProxyProtocolDetect
from proxyprotocol.result import ProxyResult
from proxyprotocol.v1 import ProxyProtocolV1
from proxyprotocol.v2 import ProxyProtocolV2

from flask_aio_core.serving import Connection, Connections, plain_response

_VERSIONS: Final[dict[str, ProxyProtocol]] = {
    "v1": ProxyProtocolV1(),
    "v2": ProxyProtocolV2(),
    "auto": ProxyProtocolDetect(),
}
#: The first bytes of a header of either version, by which it is told from a request.
_SIGNATURES: Final = {"v1": b"PROXY ", "v2": b"\r\n\r\n\x00\r\nQUIT\n"}
#: Bytes of the longest line of version 1, by its specification, section 2.1.
_LONGEST_LINE: Final = 107


class WorkerConnection(Connection):
    """A connection that knows whether its other end is a trusted proxy."""

    __slots__ = ("_cfg", "is_trusted")

    def __init__(self, connections: Connections, *, cfg: Config, **options: Any) -> None:
        super().__init__(connections, **options)
        self._cfg = cfg
        #: Whether the other end is in ``forwarded_allow_ips``; a unix socket always is.
        self.is_trusted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.is_trusted = is_allowed(
            transport.get_extra_info("peername"),
            self._cfg.forwarded_allow_ips,
            self._cfg.forwarded_allow_networks(),
        )

    @property
    def proxied(self) -> ProxyResult | None:
        """What the PROXY protocol said of the client."""
        return None


class ProxiedConnection(WorkerConnection):
    """A connection that may begin with a header of the PROXY protocol."""

    __slots__ = ("_begun", "_proxied", "_refusal")

    def __init__(self, connections: Connections, **options: Any) -> None:
        super().__init__(connections, **options)
        self._begun: bytes | None = b""
        self._proxied: ProxyResult | None = None
        self._refusal: tuple[HTTPStatus, str] | None = None

    @property
    def proxied(self) -> ProxyResult | None:
        return self._proxied

    @property
    def peername(self) -> Any:
        """The client's address, as the proxy has told it."""
        # A proxy that does not know the client's says so with none.
        told: Any = self._proxied.peername if self._proxied is not None else None
        return told or super().peername

    def data_received(self, data: bytes) -> None:
        if self._begun is None:
            super().data_received(data)
            return
        self._begun += data
        try:
            rest = self._take_header(self._begun)
        except ValueError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, f"The PROXY header is not valid: {error}")
        else:
            if rest is not None:
                self._begun = None
                super().data_received(rest)

    def _take_header(self, data: bytes) -> bytes | None:
        """Return what comes after the header, or ``None`` while it is not complete.

        :raises ValueError: it is not valid.
        """
        mode = self._cfg.proxy_protocol
        versions = _SIGNATURES if mode == "auto" else {mode: _SIGNATURES[mode]}
        version = next((one for one, sign in versions.items() if data.startswith(sign)), None)
        if version is None:
            undecided = any(sign.startswith(data) for sign in versions.values())
            return None if undecided else data
        if not is_allowed(
            super().peername, self._cfg.proxy_allow_ips, self._cfg.proxy_allow_networks()
        ):
            self._refuse(HTTPStatus.FORBIDDEN, "The peer is not in proxy_allow_ips.")
            return None
        end = len(data)
        if version == "v1":
            end = data.find(b"\n", 0, _LONGEST_LINE) + 1
            if not end:
                if len(data) >= _LONGEST_LINE:
                    raise ValueError("the line does not end.")
                return None
        elif end >= 16:
            end = 16 + int.from_bytes(data[14:16], "big")
        try:
            self._proxied = _VERSIONS[version].unpack(data[:end])
        except ProxyProtocolIncompleteError:
            return None
        except ProxyProtocolChecksumError:
            raise ValueError("the checksum is wrong.") from None
        except struct.error:
            raise ValueError("it is too short for what it promises.") from None
        return data[end:]

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        peer = super().peername
        self.logger.warning("Invalid request from %s: %s", peer[0] if peer else "?", reason)
        transport = self.transport
        if transport is not None:
            body = plain_response(status, reason).body
            assert isinstance(body, bytes)
            head = (
                f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: text/plain\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            transport.write(head.encode() + body)
        self.force_close()


def is_allowed(
    peer: Any, allowed: Sequence[str], networks: Sequence[IPv4Network | IPv6Network]
) -> bool:
    """Whether an address is in a list like ``forwarded_allow_ips``; a unix socket is in all."""
    if not isinstance(peer, tuple) or "*" in allowed:
        return True
    try:
        address = ip_address(peer[0])
    except ValueError:
        return False
    return any(address in network for network in networks)
