"""The WSGI environ, and the response's headers: what is on the wire, byte by byte."""

from __future__ import annotations

import json

import pytest
from flask import Response, request
from werkzeug.exceptions import Unauthorized

pytestmark = pytest.mark.usefixtures("aio")


@pytest.fixture
async def exchange(app, serve, connect):
    """Send bytes to the app; return status line, headers and body of the answer, as bytes."""

    async def send(data):
        client = await serve(app)
        reader, writer = await connect(client)
        writer.write(data)
        received = await reader.read()
        head, _, body = received.partition(b"\r\n\r\n")
        status, *headers = head.split(b"\r\n")
        return status, headers, body

    return send


@pytest.fixture
def environ(app, exchange):
    """Send the given request line and header lines; return the environ that the app was given."""

    def echo(*_):
        return {key: value for key, value in request.environ.items() if isinstance(value, str)}

    async def answer(path=""):
        return echo()

    methods = ["GET", "POST", "OPTIONS", "PURGE"]
    app.add_url_rule(
        "/<path:path>", "echo", answer, methods=methods, provide_automatic_options=False
    )
    app.add_url_rule("/", "root", answer, methods=methods, provide_automatic_options=False)
    app.register_error_handler(404, lambda _: echo())

    async def send(line=b"GET / HTTP/1.1", *headers, host=b"Host: shop.test"):
        lines = [line, *([host] if host else []), b"Connection: close", *headers]
        _, _, body = await exchange(b"\r\n".join(lines) + b"\r\n\r\n")
        return json.loads(body)

    return send


async def test_path_info_percent_encoded_utf8_and_slash(environ):
    """PATH_INFO is the percent-decoded path as latin-1, %2F and %00 included; RAW_URI is not."""
    got = await environ(b"GET /caf%C3%A9/a%2Fb/%00?q=%C3%A9&x=a%20b HTTP/1.1")
    assert got["PATH_INFO"] == "/caf\xc3\xa9/a/b/\0"
    assert got["RAW_URI"] == got["REQUEST_URI"] == "/caf%C3%A9/a%2Fb/%00?q=%C3%A9&x=a%20b"
    assert got["QUERY_STRING"] == "q=%C3%A9&x=a%20b"
    assert got["SCRIPT_NAME"] == ""


async def test_path_that_is_not_utf8_is_kept_byte_by_byte(environ):
    """Percent-encoded bytes that are no UTF-8 reach the app unchanged."""
    assert (await environ(b"GET /%ff%fe HTTP/1.1"))["PATH_INFO"] == "/\xff\xfe"


async def test_empty_query_and_second_question_mark(environ):
    """The query begins after the first question mark, and may contain another."""
    got = await environ(b"GET /a?b?c HTTP/1.1")
    assert (got["PATH_INFO"], got["QUERY_STRING"]) == ("/a", "b?c")


async def test_header_with_underscore_is_dropped(environ):
    """A header name with an underscore cannot pass for the one with a hyphen."""
    got = await environ(b"GET / HTTP/1.1", b"X_Real_IP: evil", b"X-Real-IP: good")
    assert got["HTTP_X_REAL_IP"] == "good"
    assert "evil" not in got.values()


async def test_duplicate_headers_are_joined_by_commas(environ):
    """Several headers of one name are one value with commas."""
    got = await environ(b"GET / HTTP/1.1", b"X-A: 1", b"x-a: 2")
    assert got["HTTP_X_A"] == "1,2"


async def test_several_cookie_headers_are_joined_by_semicolons(environ):
    """Several Cookie headers are one value with semicolons, as cookies are separated."""
    got = await environ(b"GET / HTTP/1.1", b"Cookie: a=1", b"Cookie: b=2")
    assert got["HTTP_COOKIE"] == "a=1; b=2"


async def test_non_ascii_header_bytes_arrive_as_latin1(environ):
    """Header bytes beyond ASCII are one character each, whatever they encode."""
    got = await environ(b"GET / HTTP/1.1", b"X-Latin: \xe9", b"X-Utf8: \xc3\xa9")
    assert (got["HTTP_X_LATIN"], got["HTTP_X_UTF8"]) == ("\xe9", "\xc3\xa9")


async def test_addresses_are_strings(environ):
    """REMOTE_ADDR, REMOTE_PORT, SERVER_NAME and SERVER_PORT are the socket's, as strings."""
    got = await environ()
    assert got["REMOTE_ADDR"] == got["SERVER_NAME"] == "127.0.0.1"
    assert got["REMOTE_PORT"].isdigit()
    assert got["SERVER_PORT"].isdigit()
    assert got["SERVER_PORT"] != got["REMOTE_PORT"]
    assert got["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert got["wsgi.url_scheme"] == "http"


async def test_absolute_request_target_gives_path_and_host(environ):
    """An absolute-form target is split: its host wins over Host, its path is PATH_INFO."""
    got = await environ(b"GET http://other.test:81/a%20b?c=d HTTP/1.1")
    assert (got["PATH_INFO"], got["QUERY_STRING"]) == ("/a b", "c=d")
    assert got["HTTP_HOST"] == "other.test:81"


async def test_options_asterisk_reaches_the_app(environ):
    """OPTIONS * is passed on with * as its path."""
    got = await environ(b"OPTIONS * HTTP/1.1")
    assert (got["REQUEST_METHOD"], got["RAW_URI"]) == ("OPTIONS", "*")


async def test_upgrade_and_connection_headers_reach_environ(environ):
    """Upgrade and Connection are among the headers that the app sees."""
    got = await environ(b"GET / HTTP/1.1", b"Upgrade: chat/2", b"X-A: 1")
    assert got["HTTP_UPGRADE"] == "chat/2"
    assert got["HTTP_CONNECTION"] == "close"
    assert got["HTTP_X_A"] == "1"


async def test_custom_method_reaches_the_app(environ):
    """A method that HTTP does not know is dispatched like any other."""
    assert (await environ(b"PURGE /a HTTP/1.1"))["REQUEST_METHOD"] == "PURGE"


async def test_http_1_0_without_host_is_served(environ):
    """A request of HTTP/1.0 needs no Host."""
    got = await environ(b"GET /a HTTP/1.0", host=b"")
    assert got["SERVER_PROTOCOL"] == "HTTP/1.0"
    assert "HTTP_HOST" not in got


async def test_content_headers_have_no_http_prefix(environ):
    """CONTENT_TYPE and CONTENT_LENGTH are without HTTP_, and absent when not sent."""
    got = await environ(b"POST / HTTP/1.1", b"Content-Type: text/x", b"Content-Length: 0")
    assert (got["CONTENT_TYPE"], got["CONTENT_LENGTH"]) == ("text/x", "0")
    assert not {"HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH"} & got.keys()


async def test_missing_content_headers_are_absent(environ):
    """A request without a body has neither CONTENT_TYPE nor CONTENT_LENGTH."""
    assert not {"CONTENT_TYPE", "CONTENT_LENGTH"} & (await environ()).keys()


async def test_pipelined_requests_are_answered_in_order(app, exchange):
    """Requests sent in one go are each answered, the bodies of the first not taken for the next."""

    @app.post("/<name>")
    async def view(name):
        return f"[{name}:{request.get_data(as_text=True)}]"

    post = b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n%s\r\nb%d"
    data = post % (1, b"", 1) + post % (2, b"", 2) + post % (3, b"Connection: close\r\n", 3)
    _, _, rest = await exchange(data)
    positions = [rest.find(b"[%d:b%d]" % (number, number)) for number in (1, 2, 3)]
    assert positions == sorted(positions)
    assert -1 not in positions


# Response headers


CLOSE = b" / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


async def test_several_set_cookie_headers_stay_apart(app, exchange):
    """Each cookie that is set is a header of its own, in order."""

    @app.get("/")
    async def view():
        response = Response("x")
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        return response

    _, headers, _ = await exchange(b"GET" + CLOSE)
    cookies = [header for header in headers if header.startswith(b"Set-Cookie:")]
    assert cookies == [b"Set-Cookie: a=1; Path=/", b"Set-Cookie: b=2; Path=/"]


async def test_non_ascii_response_header(app, exchange):
    """A header value with latin-1 characters arrives as those bytes, beside repeated headers."""

    @app.get("/")
    async def view():
        headers = [("X-Name", "caf\xe9"), ("X-Name", "the"), ("X-Plain", "a")]
        return Response("body", headers=headers)

    status, headers, body = await exchange(b"GET" + CLOSE)
    assert status.endswith(b"200 OK")
    assert {b"X-Name: caf\xe9", b"X-Name: the", b"X-Plain: a"} <= set(headers)
    assert body == b"body"


async def test_response_header_beyond_latin1_is_an_error(app, exchange, caplog):
    """A value that latin-1 cannot carry is answered with 500, and the log says what to do."""

    @app.get("/")
    async def view():
        return Response("x", headers={"X-Name": "\u20ac"})

    status, _, _ = await exchange(b"GET" + CLOSE)
    assert b" 500 " in status
    assert "urllib.parse.quote" in caplog.text


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "\xe9\r\nX-Evil: 1", "\xe9\0"])
async def test_control_characters_in_response_headers_are_refused(app, exchange, caplog, value):
    """A header value that would begin a new line is never sent."""

    def wsgi(_, start_response):
        start_response("200 OK", [("X-Name", value)])
        return [b"x"]

    app.wsgi_app = wsgi
    status, headers, _ = await exchange(b"GET" + CLOSE)
    assert b" 500 " in status
    assert not any(header.startswith((b"X-Evil", b"X-Name")) for header in headers)


async def test_hop_by_hop_headers_of_the_app_are_dropped(app, exchange):
    """Transfer-Encoding and its like are the server's; what the app says of them is not sent."""

    @app.get("/")
    async def view():
        headers = {"Transfer-Encoding": "gzip", "Keep-Alive": "timeout=5", "Upgrade": "x"}
        return Response("body", headers=headers)

    _, headers, body = await exchange(b"GET" + CLOSE)
    assert body == b"body"
    names = {header.partition(b":")[0].lower() for header in headers}
    assert not {b"transfer-encoding", b"keep-alive", b"upgrade"} & names


async def test_connection_close_of_the_app_closes_the_connection(app, exchange):
    """An app that answers Connection: close ends the connection, and the client is told."""

    @app.get("/")
    async def view():
        return Response("body", headers={"Connection": "close"})

    _, headers, body = await exchange(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert body == b"body"
    assert b"Connection: close" in headers


@pytest.mark.parametrize("status", ["299 ", "299", "404 Not Here"])
async def test_status_line_is_the_apps(app, exchange, status):
    """Status and reason are the app's; a status without a reason is sent."""

    def wsgi(_, start_response):
        start_response(status, [])
        return [b"x"]

    app.wsgi_app = wsgi
    line, _, body = await exchange(b"GET" + CLOSE)
    assert line.startswith(b"HTTP/1.1 " + status.strip().encode())
    assert body == b"x"


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
@pytest.mark.parametrize("stream", [False, True])
async def test_head_204_304_have_no_body_and_no_chunked(app, exchange, method, status, stream):
    """Responses that may not have a body have none, and are not called chunked."""

    @app.get("/")
    async def view():
        async def body():
            yield b"body"

        return Response(body() if stream else "body", status)

    line, headers, body = await exchange(method.encode() + CLOSE)
    assert b" %d " % status in line
    assert body == b""
    assert not any(header.lower().startswith(b"transfer-encoding") for header in headers)


async def test_head_tells_the_length_of_the_body(app, exchange):
    """HEAD has the Content-Length that GET would have."""

    @app.get("/")
    def view():
        return "12345"

    _, headers, body = await exchange(b"HEAD" + CLOSE)
    assert (b"Content-Length: 5" in headers, body) == (True, b"")


async def test_empty_body_response_is_sent(app, exchange):
    """A response without a body has headers and a length of zero."""

    @app.get("/")
    async def view():
        return ""

    _, headers, body = await exchange(b"GET" + CLOSE)
    assert (b"Content-Length: 0" in headers, body) == (True, b"")


async def test_write_callable_of_start_response_sends_before_the_iterable(app, exchange):
    """What is given to write() comes before what the iterable yields (PEP 3333)."""

    def wsgi(_, start_response):
        write = start_response("200 OK", [("Content-Length", "6")])
        write(b"one")
        return [b"two"]

    app.wsgi_app = wsgi
    _, _, body = await exchange(b"GET" + CLOSE)
    assert body == b"onetwo"


async def test_error_of_http_exception_keeps_its_headers(app, exchange):
    """An aborted request has the status and headers of its exception."""

    @app.get("/")
    async def view():
        raise Unauthorized(www_authenticate=None, response=Response("no", 401, {"X-A": "b"}))

    line, headers, body = await exchange(b"GET" + CLOSE)
    assert b" 401 " in line
    assert (b"X-A: b" in headers, body) == (True, b"no")
