"""The limits of a request's head, at the limit and one above it; and what is no request."""

from __future__ import annotations

import pytest

REFUSED_LINE = 414
REFUSED_FIELD = 431


def request(line=0, fields=1, size=0):
    """Return a request with a line of so many bytes, so many fields, one of so many bytes."""
    target = "/synchronous"
    if line:
        target += "?" + "q" * (line - len(f"GET {target}? HTTP/1.1"))
    head = [f"GET {target} HTTP/1.1", "Host: t"]
    head += [f"X-{number}: v" for number in range(fields - 1 - bool(size))]
    if size:  # As gunicorn counts: with the end of the line.
        head.append("X-Size: " + "v" * (size - len("X-Size: \r\n")))
    if line:
        assert len(head[0]) == line
    assert not size or len(head[-1]) + 2 == size
    assert len(head) == max(fields, 1 + bool(size)) + 1
    return "\r\n".join([*head, "", ""]).encode()


@pytest.mark.parametrize(
    ("limits", "line", "fields", "size"),
    [
        ((), 4094, 100, 8190),
        ((100, 5, 60), 100, 5, 60),
        ((64, 1, 64), 64, 1, 0),
        ((200, 5, 200), 200, 5, 200),
        ((0, 0, 0), 0, 0, 8190),
        ((20000, 5, 20000), 8190, 5, 20000),
    ],
)
def test_limits(gunicorn, limits, line, fields, size):
    """Exactly at the limit passes, one more is refused with the status for it; 0 is gunicorn's."""
    names = ("--limit-request-line", "--limit-request-fields", "--limit-request-field_size")
    options = [word for pair in zip(names, map(str, limits), strict=False) for word in pair]
    server = gunicorn(*options)
    assert server.exchange(request()).status == 200
    if line:
        assert server.exchange(request(line=line)).status == 200
        for longer in (line + 1, line + 2, 3 * line):
            assert server.exchange(request(line=longer)).status == REFUSED_LINE, longer
    else:
        assert server.exchange(request(line=100_000)).status == 200
    if fields:
        assert server.exchange(request(fields=fields)).status == 200
        for more in (fields + 1, fields + 2, 3 * fields):
            assert server.exchange(request(fields=more)).status == REFUSED_FIELD, more
    else:
        assert server.exchange(request(fields=1000)).status == 200
    if size:
        assert server.exchange(request(size=size)).status == 200
        for longer in (size + 1, size + 2, size + 3, 3 * size):
            assert server.exchange(request(size=longer)).status == REFUSED_FIELD, longer
    assert server.exchange(request()).status == 200
    assert "Traceback" not in server.output
    assert "[ERROR]" not in server.output


def test_what_is_no_request(gunicorn):
    """What is not valid gets 400, one log line without a traceback, and the server goes on."""
    server = gunicorn("--log-level", "debug")
    for number, data in enumerate(
        [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
            b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
            b"GET /coroutine HTTP/1.1\r\nHost: test\r\nno colon\r\n\r\n",
            b"GET /coroutine HTTP/1.1\r\nHost: test\r\nContent-Length: many\r\n\r\n",
            b"GET /coroutine HTTP/9.9.9\r\nHost: test\r\n\r\n",
        ],
        1,
    ):
        with server.connect() as connection:
            response = server.exchange(data, connection)
            assert response.status == 400, data
            assert response.text.startswith("400 Bad Request: "), data
            assert connection.recv(1) == b""
        server.wait_for("Invalid request from 127.0.0.1: ", count=number)
        assert server.get().status == 200
    assert server.output.count("Invalid request from 127.0.0.1: ") == number
    assert "Traceback" not in server.output
    assert "[ERROR]" not in server.output
    assert len(server.workers()) == 1
    assert server.output.count("Booting worker") == 1
