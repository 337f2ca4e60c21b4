"""How long a connection is held."""

from __future__ import annotations

import http.client
import time


def get(path, method="GET"):
    return f"{method} {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode()


def test_idle_connection_is_closed(gunicorn):
    """An idle connection is closed after --keep-alive seconds, each request starts them anew."""
    server = gunicorn("--keep-alive", "3")
    with server.connect() as connection:
        for path in ("/coroutine", "/coroutine?seconds=3.5", "/synchronous?seconds=3.5"):
            begun = time.monotonic()
            response = server.exchange(get(path), connection)
            assert response.status == 200
            assert response.headers["Connection"] is None
        assert connection.recv(1) == b""
        assert time.monotonic() - begun >= 6.5, "closed too early"
    assert server.get().status == 200


def test_many_requests_on_one_connection(gunicorn):
    """Requests of every kind follow each other on one connection."""
    server = gunicorn("--keep-alive", "60")
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    client.auto_open = False
    client.connect()
    environs = set()
    for number in range(100):
        client.request("POST", "/upload", body=b"x" * number)
        assert client.getresponse().read() == b'{"length":%d}\n' % number
        client.request("GET", "/synchronous")
        assert client.getresponse().read()
        client.request("GET", "/missing")
        response = client.getresponse()
        assert (response.status, bool(response.read())) == (404, True)
        client.request("GET", "/environ")
        environs.add(client.getresponse().read())  # It tells the client's port.
    assert len(environs) == 1
    client.close()


def test_zero_closes_each_connection(gunicorn):
    """With 0 every response says that the connection closes, and it does."""
    server = gunicorn("--keep-alive", "0")
    for path, method, status in [
        ("/coroutine", "GET", 200),
        ("/coroutine", "HEAD", 200),
        ("/synchronous", "GET", 200),
        ("/missing", "GET", 404),
        ("/upload", "GET", 405),
        ("/coroutine?seconds=no", "GET", 500),
    ]:
        with server.connect() as connection:
            connection.sendall(get(path, method))
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
        head = answer.partition(b"\r\n\r\n")[0].lower()
        assert head.startswith(b"http/1.1 %d " % status)
        assert b"\r\nconnection: close" in head
        assert head.count(b"\r\nconnection:") == 1
