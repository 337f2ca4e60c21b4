"""Errors of WebSocket views."""

from __future__ import annotations


class WebSocketError(RuntimeError):
    """Base of the errors of this package."""


class ConnectionClosed(WebSocketError):
    """A synchronous view used a WebSocket that is closed.

    :param code: the close code (RFC 6455, section 7.4.1); 1006 if there was no closing handshake.
    :param reason: the text that the peer sent with it.
    """

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"The WebSocket was closed with code {self.code}. {self.reason}".rstrip()
