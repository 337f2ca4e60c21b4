"""From ``start_response`` to the aiohttp response that carries it (PEP 3333)."""

from __future__ import annotations

import re
from typing import Final

from aiohttp import web
from multidict import CIMultiDict

#: Headers that concern one connection; they are the server's (PEP 3333, "Other HTTP Features").
_HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


_CONTROL_CHARACTERS: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class ResponseHead:
    """Status and headers as the application has given them to ``start_response``.

    :raises TypeError: the status is no string or the headers are no list.
    :raises ValueError: the status does not begin with a number of three digits.
    """

    def __init__(self, status: str, headers: list[tuple[str, str]]) -> None:
        if not isinstance(status, str):
            raise TypeError(f"The status must be a string like '200 OK', not {status!r}.")
        if not isinstance(headers, list):
            raise TypeError(f"The headers must be a list of tuples, not {headers!r}.")
        code, _, reason = status.partition(" ")
        if len(code) != 3 or not code.isdigit():
            raise ValueError(f"The status must begin with a three-digit number, not {status!r}.")
        self.status = int(code)
        self.reason = reason
        #: The body's length in bytes, if the application has declared it.
        self.content_length: int | None = None
        self._content_type = ""
        self._headers = kept = list[tuple[str, str]]()
        self._closes = False
        for header in headers:
            name, value = header
            lower = name.lower()
            if lower not in _HOP_BY_HOP:
                kept.append(header)
                if lower == "content-length":
                    self.content_length = int(value)
                elif lower == "content-type":
                    self._content_type = value
            elif lower == "upgrade" and code == "426":
                # Here, and only here, the application has to say it (RFC 9110, section 15.5.22).
                kept += [header, ("Connection", "Upgrade")]
            elif lower == "connection" and "close" in value.lower():
                self._closes = True

    @property
    def content_type(self) -> str:
        """The media type without parameters, in lower case."""
        return self._content_type.partition(";")[0].strip().lower()

    def allows_body(self, method: str) -> bool:
        """Whether a body may be sent with it (RFC 9110, section 6.4.1)."""
        return not (method == "HEAD" or self.status < 200 or self.status in (204, 304))

    def response(self) -> WSGIResponse:
        """Return the aiohttp response with this status and these headers, not yet sent."""
        response = WSGIResponse(
            status=self.status, reason=self.reason or None, headers=self._headers
        )
        if self._closes:
            response.force_close()
        return response


class WSGIResponse(web.StreamResponse):
    """A stream response whose headers leave with the first piece of the body, as latin-1."""

    # aiohttp's own Response has this set too: headers and a small body are one packet.
    _send_headers_immediately = False

    #: Bytes of the body that were sent.
    sent = 0

    async def _write_headers(self) -> None:
        # aiohttp encodes header values as UTF-8, and has no public way to choose; in PEP 3333 each
        # character is one byte. A value for which the two differ is written by ourselves.
        if "".join(self.headers.values()).isascii():
            return await super()._write_headers()
        for name, value in self.headers.items():
            if not value.isascii():
                _check_latin1(name, value)
        writer = self._payload_writer
        request = self._req
        assert writer is not None
        assert request is not None
        placeholders = CIMultiDict(self.headers)
        for name in {name for name, value in placeholders.items() if not value.isascii()}:
            del placeholders[name]
        version = request.version
        line = f"HTTP/{version[0]}.{version[1]} {self.status} {self.reason}"
        # Let aiohttp check and build the rest, then add ours before the empty line at the end.
        await writer.write_headers(line, placeholders)
        ours = "".join(
            f"{name}: {value}\r\n"
            for name, value in self.headers.items()
            if name not in placeholders
        )
        head = writer._headers_buf  # type: ignore[attr-defined]
        writer._headers_buf = head[:-2] + ours.encode("latin-1") + b"\r\n"  # type: ignore[attr-defined]

    def start_without_body(self) -> None:
        """Send the headers now: the body will bypass aiohttp's writer."""
        writer = self._payload_writer
        assert writer is not None
        send = getattr(writer, "send_headers", None)
        if send is not None:  # Before aiohttp 3.12.3 they were never held back.
            send()


def _check_latin1(name: str, value: str) -> None:
    if _CONTROL_CHARACTERS.search(value):
        raise ValueError(f"The response header {name!r} contains a control character.")
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError(
            f"The response header {name!r} contains characters beyond latin-1: {value!r}. Encode"
            " them, for example with urllib.parse.quote."
        ) from None
