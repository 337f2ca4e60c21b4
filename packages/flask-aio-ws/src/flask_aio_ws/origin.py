"""Which web pages may connect: the defence against cross-site WebSocket hijacking.

A browser sends a user's cookies with a handshake from any page, and no CORS rule stops it; it also
sends the page's origin, which a page cannot forge (RFC 6455, section 10.2).
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def origin_is_allowed(origin: str | None, host: str, allowed: Collection[str] | str) -> bool:
    """Whether a handshake may go on.

    :param origin: the header ``Origin``; a client that sends none is not a browser.
    :param host: the host, with port, that the client has asked for.
    :param allowed: further origins, such as ``https://example.com``, or ``"*"``.
    """
    if origin is None or allowed == "*" or "*" in allowed:
        return True
    try:
        parts = urlsplit(origin.lower())
    except ValueError:
        return False
    if not parts.netloc:
        return False  # "null": a sandboxed frame or a local file.
    # Not the scheme: behind a proxy that ends TLS the server may not know that it is https.
    port = _DEFAULT_PORTS.get(parts.scheme, "")
    if parts.netloc.removesuffix(port) == host.lower().removesuffix(port):
        return True
    listed = (allowed,) if isinstance(allowed, str) else allowed
    return origin.lower() in {one.lower().rstrip("/") for one in listed}
