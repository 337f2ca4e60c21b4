"""The PROXY protocol, in both versions."""

from __future__ import annotations

import ipaddress
import struct

import pytest

V1 = b"PROXY TCP4 9.8.7.6 1.2.3.4 1111 2222\r\n"
V1_IPV6 = b"PROXY TCP6 2001:db8::1 2001:db8::2 1111 2222\r\n"
REQUEST = b"GET /environ HTTP/1.1\r\nHost: here\r\n\r\n"

TOLD_IPV4 = {
    "REMOTE_ADDR": "9.8.7.6",
    "REMOTE_PORT": "1111",
    "PROXY_PROTOCOL": "TCP4",
    "PROXY_ADDR": "1.2.3.4",
    "PROXY_PORT": "2222",
}
TOLD_IPV6 = {
    "REMOTE_ADDR": "2001:db8::1",
    "REMOTE_PORT": "1111",
    "PROXY_PROTOCOL": "TCP6",
    "PROXY_ADDR": "2001:db8::2",
    "PROXY_PORT": "2222",
}

CONFIG = """
accesslog = "-"
access_log_format = "[%(h)s] %(r)s %(s)s"
"""


def _v2(command, family, payload, length=None):
    return (
        b"\r\n\r\n\x00\r\nQUIT\n"
        + struct.pack("!BBH", 0x20 | command, family, len(payload) if length is None else length)
        + payload
    )


def _addresses(source, dest):
    return (
        ipaddress.ip_address(source).packed
        + ipaddress.ip_address(dest).packed
        + struct.pack("!HH", 1111, 2222)
    )


V2 = _v2(1, 0x11, _addresses("9.8.7.6", "1.2.3.4"))
V2_TLV = _v2(1, 0x11, _addresses("9.8.7.6", "1.2.3.4") + b"\x02\x00\x04host")
V2_IPV6 = _v2(1, 0x21, _addresses("2001:db8::1", "2001:db8::2"))


@pytest.fixture(scope="module", params=["v1", "v2", "auto"])
def mode(request):
    """A mode of ``--proxy-protocol`` that is not off."""
    return request.param


@pytest.fixture(scope="module")
def server(shared_gunicorn, mode):
    """A server in that mode."""
    return shared_gunicorn("--proxy-protocol", mode, config=CONFIG)


@pytest.fixture(scope="module")
def auto(shared_gunicorn):
    """A server that understands both versions."""
    return shared_gunicorn("--proxy-protocol", "auto", config=CONFIG)


def _told(response):
    assert response.status == 200, response.text
    return {name: response.json[name] for name in TOLD_IPV4 if name in response.json}


def _local_port(connection):
    return str(connection.getsockname()[1])


@pytest.mark.parametrize(
    ("version", "header", "told"),
    [
        ("v1", V1, TOLD_IPV4),
        ("v1", V1_IPV6, TOLD_IPV6),
        ("v2", V2, TOLD_IPV4),
        ("v2", V2_TLV, TOLD_IPV4),
        ("v2", V2_IPV6, TOLD_IPV6),
    ],
)
def test_versions(server, mode, version, header, told):
    """The client's address is the one of the header, where the mode knows its version."""
    response = server.exchange(header + REQUEST)
    if mode in (version, "auto"):
        assert _told(response) == told
        server.wait_for(f"[{told['REMOTE_ADDR']}] GET /environ HTTP/1.1 200")
    else:  # As if it was meant to be a request.
        assert response.status == 400


def test_no_header(server):
    """Without a header it is an ordinary request of an ordinary client."""
    with server.connect() as connection:
        told = _told(server.exchange(REQUEST, connection))
        assert told == {"REMOTE_ADDR": "127.0.0.1", "REMOTE_PORT": _local_port(connection)}
    server.wait_for("[127.0.0.1] GET /environ HTTP/1.1 200")
    # It begins as a header does.
    assert server.exchange(b"P" + REQUEST.replace(b"GET", b"UT", 1)).status == 405
    assert server.exchange(b"\r\n" + REQUEST).status == 200


def test_off(gunicorn):
    """By default nobody is believed: a header is no valid request."""
    server = gunicorn()
    assert server.exchange(V1 + REQUEST).status == 400
    assert server.exchange(V2 + REQUEST).status == 400
    assert "PROXY_PROTOCOL" not in server.exchange(REQUEST).json


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        (b"PROXY UNKNOWN\r\n", "UNSPEC"),
        (b"PROXY UNKNOWN ffff::1 ffff::2 1111 2222\r\n", "UNSPEC"),
        (_v2(0, 0x00, b""), "LOCAL"),
        (_v2(0, 0x11, _addresses("9.8.7.6", "1.2.3.4")), "LOCAL"),
        (_v2(1, 0x00, b""), "UNSPEC"),
    ],
)
def test_proxys_own_connection(auto, header, kind):
    """When the proxy speaks for itself, or does not know, the connection's own address is told."""
    with auto.connect() as connection:
        told = _told(auto.exchange(header + REQUEST, connection))
        assert told == {
            "REMOTE_ADDR": "127.0.0.1",
            "REMOTE_PORT": _local_port(connection),
            "PROXY_PROTOCOL": kind,
        }


@pytest.mark.parametrize(("header", "told"), [(V1, TOLD_IPV4), (V2_IPV6, TOLD_IPV6)])
def test_several_requests(auto, header, told):
    """The header is for the connection: each of its requests has the same client."""
    with auto.connect() as connection:
        assert _told(auto.exchange(header + REQUEST, connection)) == told
        for _ in range(3):
            assert _told(auto.exchange(REQUEST, connection)) == told
        # A second header is no request.
        assert auto.exchange(header + REQUEST, connection).status == 400
    # The next connection has nothing to do with it.
    assert _told(auto.exchange(REQUEST))["REMOTE_ADDR"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("header", "told"), [(V1, TOLD_IPV4), (V1_IPV6, TOLD_IPV6), (V2_TLV, TOLD_IPV4)]
)
def test_byte_by_byte(auto, header, told):
    """The header may come in as many packets as it has bytes, and so may the request."""
    with auto.connect() as connection:
        connection.setsockopt(6, 1, 1)  # IPPROTO_TCP, TCP_NODELAY
        data = header + REQUEST
        for index in range(len(data) - 1):
            connection.sendall(data[index : index + 1])
        assert _told(auto.exchange(data[-1:], connection)) == told


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP4 9.8.7.6 1.2.3.4 1111\r\n",
        b"PROXY TCP4 9.8.7.6 1.2.3.4 1111 22222222\r\n",
        b"PROXY TCP4 9.8.7.6 1.2.3.4 -1 2222\r\n",
        b"PROXY TCP4 9.8.7.6 1.2.3.4 a 2222\r\n",
        b"PROXY TCP4 999.8.7.6 1.2.3.4 1111 2222\r\n",
        b"PROXY TCP4 \xff\xfe 1.2.3.4 1111 2222\r\n",
        b"PROXY TCP6 9.8.7.6 1.2.3.4 1111 2222\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::2 1111 2222\r\n",
        b"PROXY UDP4 9.8.7.6 1.2.3.4 1111 2222\r\n",
        b"PROXY TCP4 9.8.7.6 1.2.3.4 1111 2222\n",
        b"PROXY \r\n",
        b"PROXY " + b"x" * 200,  # A line that does not end.
        b"PROXY " + b"x" * 101,
        b"PROXY UNKNOWN" + b" x" * 4000 + b"\r\n",
        b"\r\n\r\n\x00\r\nQUIT\n\x11\x11\x00\x00",  # No version 2.
        _v2(5, 0x11, _addresses("9.8.7.6", "1.2.3.4")),  # No such command.
        _v2(1, 0x11, b"\x01\x02\x03\x04"),  # Too short for its addresses.
        _v2(1, 0x21, _addresses("9.8.7.6", "1.2.3.4")),
        _v2(1, 0x11, _addresses("9.8.7.6", "1.2.3.4") + b"\x03\x00\x02ab"),
    ],
)
def test_invalid_header(auto, header):
    """What is not valid is refused, as long as it may be, and the reason is logged."""
    seen = auto.output.count("The PROXY header is not valid")
    with auto.connect() as connection:
        response = auto.exchange(header, connection)
        assert response.status == 400
        assert "PROXY" in response.text
        assert connection.recv(1) == b""
    auto.wait_for("Invalid request from 127.0.0.1: The PROXY header is not valid", seen + 1)
    assert "Traceback" not in auto.output
    assert _told(auto.exchange(V1 + REQUEST)) == TOLD_IPV4


def test_longest_header(auto):
    """A header of version 2 may be as long as its length can say, and no byte is lost."""
    addresses = _addresses("9.8.7.6", "1.2.3.4")
    tlv = b"\xe0" + struct.pack("!H", 65535 - 15) + b"x" * (65535 - 15)
    header = _v2(1, 0x11, addresses + tlv)
    assert len(header) == 16 + 65535
    assert _told(auto.exchange(header + REQUEST)) == TOLD_IPV4
    # One that promises more than it brings is still waited for; meanwhile others are served.
    with auto.connect() as connection:
        connection.sendall(_v2(1, 0x11, addresses, length=65535))
        assert _told(auto.exchange(V1 + REQUEST)) == TOLD_IPV4


def test_peer_that_is_not_allowed(gunicorn):
    """Who is not in proxy_allow_ips may not speak for others, but for itself."""
    server = gunicorn("--proxy-protocol", "auto", "--proxy-allow-from", "10.0.0.1,192.168.0.0/16")
    for header in (V1, V2):
        with server.connect() as connection:
            response = server.exchange(header + REQUEST, connection)
            assert response.status == 403
            # The rest is not served.
            assert connection.recv(1) == b""
    server.wait_for("Invalid request from 127.0.0.1: The peer is not in proxy_allow_ips.", 2)
    assert _told(server.exchange(REQUEST))["REMOTE_ADDR"] == "127.0.0.1"


@pytest.mark.parametrize("allowed", ["127.0.0.0/8", "*"])
def test_peer_that_is_allowed(gunicorn, allowed):
    """Networks and the asterisk are understood; forwarded_allow_ips is about the connection."""
    server = gunicorn("--proxy-protocol", "auto", "--proxy-allow-from", allowed)
    forwarded = REQUEST.replace(b"\r\n\r\n", b"\r\nX-Forwarded-Proto: https\r\n\r\n")
    response = server.exchange(V1 + forwarded)
    assert _told(response) == TOLD_IPV4
    assert response.json["wsgi.url_scheme"] == "https"
