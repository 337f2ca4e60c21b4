"""PEP 3333 to the letter, and the WSGI middlewares that rely on it."""

from __future__ import annotations

import asyncio
import gc
import io
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.validate import validator

import aiohttp
import pytest
from flask import Flask, Response, request, url_for
from werkzeug.debug import DebuggedApplication
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.profiler import ProfilerMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix

from flask_aio_core import AioHTTP, await_

PLAIN = [("Content-Type", "text/plain")]


@pytest.fixture(params=["loop", "thread"])
def wsgi(request: pytest.FixtureRequest, app: Flask, aio: AioHTTP) -> Callable[[Any], Flask]:
    """Put a WSGI application in place of Flask's, called on the event loop or in a thread."""
    if request.param == "loop":

        async def view() -> str:
            return "never called"
    else:

        def view() -> str:  # type: ignore[misc]
            return "never called"

    app.add_url_rule("/", view_func=view, methods=["GET", "POST"])
    on_loop = request.param == "loop"

    def install(application: Any) -> Flask:
        def checked(environ: Any, start_response: Any) -> Any:
            assert (threading.current_thread() is threading.main_thread()) is on_loop
            return application(environ, start_response)

        app.wsgi_app = checked  # type: ignore[method-assign]
        return app

    return install


class Body:
    """A response iterable that notes how often it was closed."""

    def __init__(self, chunks: Iterable[Any]) -> None:
        self._chunks = iter(chunks)
        self.closed = 0
        self.taken = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        chunk = next(self._chunks)
        self.taken += 1
        return chunk

    def close(self) -> None:
        self.closed += 1


class ListBody(list):  # type: ignore[type-arg]
    closed = 0

    def close(self) -> None:
        self.closed += 1


# --- wsgiref's validator


@pytest.fixture
def validated(app: Flask, aio: AioHTTP) -> Flask:
    """An app with views of each kind, inside the validator of the standard library."""

    @app.route("/sync", methods=["GET", "POST"])
    def sync() -> Any:
        return f"sync {request.values.get('name', '')} {len(request.get_data())}"

    @app.route("/coroutine", methods=["GET", "POST"])
    async def coroutine() -> Any:
        await asyncio.sleep(0)
        return f"coroutine {request.values.get('name', '')} {len(request.get_data())}"

    @app.get("/stream")
    def stream() -> Any:
        return (str(number) for number in range(3))

    @app.get("/async-stream")
    async def async_stream() -> Any:
        async def numbers() -> Any:
            for number in range(3):
                await asyncio.sleep(0)
                yield str(number)

        return numbers()

    @app.get("/empty")
    async def empty() -> Any:
        response = Response(status=204)
        del response.headers["Content-Type"]  # Flask's own, which the validator refuses here.
        return response

    app.wsgi_app = validator(app.wsgi_app)  # type: ignore[method-assign, assignment]
    return app


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/sync?name=a", 200, "sync a 0"),
        ("GET", "/coroutine?name=b", 200, "coroutine b 0"),
        ("GET", "/stream", 200, "012"),
        ("GET", "/async-stream", 200, "012"),
        ("GET", "/empty", 204, ""),
        ("HEAD", "/sync", 200, ""),
        ("HEAD", "/coroutine", 200, ""),
        ("OPTIONS", "/coroutine", 200, ""),
        ("GET", "/static/missing.css", 404, None),
    ],
)
async def test_validator_passes_requests_of_every_kind(
    validated, serve, capfd, method, path, status, body
):
    """The validator finds no fault with the environ, the calls or the closing of the iterable."""
    client = await serve(validated)
    async with client.request(method, path) as response:
        text = await response.text()
    assert response.status == status
    assert body is None or text == body
    gc.collect()  # The validator complains on stderr about iterables that were not closed.
    assert "closed" not in capfd.readouterr().err


@pytest.mark.parametrize("path", ["/sync", "/coroutine"])
@pytest.mark.parametrize("size", [10, 300_000])
async def test_validator_passes_form_in_body(validated, serve, path, size):
    """The validator finds no fault with how Flask reads a form from wsgi.input."""
    client = await serve(validated)
    async with client.post(path, data={"name": "x" * size}) as response:
        assert (response.status, await response.text()) == (
            200,
            f"{path[1:]} {'x' * size} 0",
        )


@pytest.mark.parametrize("path", ["/sync", "/coroutine"])
@pytest.mark.parametrize("size", [10, 300_000])
async def test_validator_passes_raw_body_with_length(validated, serve, path, size):
    """The validator finds no fault with how Flask reads a whole body of known length."""
    client = await serve(validated)
    async with client.post(path, data=b"x" * size) as response:
        assert (response.status, await response.text()) == (200, f"{path[1:]}  {size}")


@pytest.mark.parametrize("read", ["read", "readline", "readlines", "iterate"])
async def test_validator_passes_every_way_to_read_the_input(wsgi, serve, read):
    """wsgi.input has read, readline, readlines and iteration as the PEP demands."""

    def application(environ, start_response):
        stream = environ["wsgi.input"]
        lines = {
            "read": lambda: [stream.read(100_000) + stream.read(100_000)],
            "readline": lambda: [stream.readline(), stream.readline(), stream.readline(5)],
            "readlines": lambda: stream.readlines(),
            "iterate": lambda: list(stream),
        }[read]()
        start_response("200 OK", list(PLAIN))
        return [b"".join(lines)]

    client = await serve(wsgi(validator(application)))
    async with client.post("/", data=b"one\ntwo\n") as response:
        assert (response.status, await response.read()) == (200, b"one\ntwo\n")


# --- start_response


async def test_start_response_at_first_next_sends_its_status(wsgi, serve):
    """An application may call start_response as late as in the first step of its iterable."""

    def application(environ, start_response):
        start_response("202 Later", list(PLAIN))
        yield b"late"

    client = await serve(wsgi(application))
    async with client.get("/") as response:
        assert (response.status, response.reason) == (202, "Later")
        assert await response.read() == b"late"


async def test_body_without_start_response_is_500(wsgi, serve, caplog):
    """An application that never calls start_response is answered with 500, and the log says so."""
    client = await serve(wsgi(lambda environ, start_response: [b"body"]))
    async with client.get("/") as response:
        assert response.status == 500
    assert "before it had called start_response" in caplog.text


async def test_no_chunk_and_no_start_response_is_500(wsgi, serve, caplog):
    """An empty iterable does not excuse a missing start_response."""
    client = await serve(wsgi(lambda environ, start_response: iter(())))
    async with client.get("/") as response:
        assert response.status == 500
    assert "start_response" in caplog.text


async def test_start_response_twice_is_refused(wsgi, serve, caplog):
    """A second start_response without exc_info is an error of the application."""

    def application(environ, start_response):
        start_response("200 OK", list(PLAIN))
        start_response("200 OK", list(PLAIN))
        return [b"never"]

    client = await serve(wsgi(application))
    async with client.get("/") as response:
        assert response.status == 500
    assert "start_response was called twice" in caplog.text


async def test_exc_info_before_headers_replaces_the_response(wsgi, serve):
    """With exc_info, status and headers that were not sent yet are replaced."""

    def application(environ, start_response):
        start_response("200 OK", [*PLAIN, ("X-First", "1")])
        try:
            raise ValueError("wrong")
        except ValueError:
            start_response("500 Oops", [*PLAIN, ("X-Second", "2")], sys.exc_info())
        return [b"error page"]

    client = await serve(wsgi(application))
    async with client.get("/") as response:
        assert (response.status, response.reason) == (500, "Oops")
        assert "X-First" not in response.headers
        assert response.headers["X-Second"] == "2"
        assert await response.read() == b"error page"


async def test_exc_info_after_headers_raises_the_error(wsgi, serve, caplog):
    """With exc_info after the headers were sent, the error is raised and the response cut off."""
    raised = []

    def application(environ, start_response):
        start_response("200 OK", list(PLAIN))
        yield b"first"
        try:
            raise ValueError("too late")
        except ValueError:
            try:
                start_response("500 Oops", list(PLAIN), sys.exc_info())
            except ValueError as error:
                raised.append(error)
                raise
        yield b"never"

    client = await serve(wsgi(application))
    async with client.get("/") as response:
        assert response.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    assert [str(error) for error in raised] == ["too late"]
    assert "ValueError: too late" in caplog.text


async def test_exc_info_after_write_raises_the_error(wsgi, serve):
    """write() counts as sending the headers."""
    raised = []

    def application(environ, start_response):
        write = start_response("200 OK", list(PLAIN))
        write(b"first")
        try:
            raise ValueError("too late")
        except ValueError:
            try:
                start_response("500 Oops", list(PLAIN), sys.exc_info())
            except ValueError as error:
                raised.append(error)
        return [b" second"]

    client = await serve(wsgi(application))
    async with client.get("/") as response:
        assert (response.status, await response.read()) == (200, b"first second")
    assert len(raised) == 1


async def test_empty_first_chunks_do_not_send_headers(wsgi, serve):
    """Headers leave with the first byte of the body: until then an error can replace them."""

    def application(environ, start_response):
        start_response("200 OK", list(PLAIN))
        yield b""
        yield b""
        try:
            raise ValueError("in time")
        except ValueError:
            start_response("503 Sorry", list(PLAIN), sys.exc_info())
        yield b"sorry"

    client = await serve(wsgi(application))
    async with client.get("/") as response:
        assert (response.status, await response.read()) == (503, b"sorry")


@pytest.mark.parametrize(
    ("status", "headers", "message"),
    [
        (200, PLAIN, "status must be a string"),
        ("OK", PLAIN, "three-digit number"),
        ("200 OK", tuple(PLAIN), "headers must be a list"),
    ],
)
async def test_malformed_start_response_is_500_and_named(
    wsgi, serve, caplog, status, headers, message
):
    """What start_response must be given is checked, and the log says what is wrong."""

    def application(environ, start_response):
        start_response(status, headers)
        return [b"never"]

    client = await serve(wsgi(application))
    async with client.get("/") as response:
        assert response.status == 500
    assert message in caplog.text


async def test_hop_by_hop_headers_of_application_are_not_sent(wsgi, serve):
    """Headers about the connection are the server's, whatever the application gives."""

    def application(environ, start_response):
        start_response("200 OK", [*PLAIN, ("Transfer-Encoding", "chunked"), ("Keep-Alive", "9")])
        return [b"body"]

    client = await serve(wsgi(application))
    async with client.get("/") as response:
        assert await response.read() == b"body"
        assert "Keep-Alive" not in response.headers
        assert "Transfer-Encoding" not in response.headers
        assert response.headers["Content-Length"] == "4"


# --- write() and the iterable


async def test_write_comes_before_the_iterable(wsgi, serve):
    """What write() was given is sent first, then what the iterable yields."""

    def application(environ, start_response):
        write = start_response("200 OK", list(PLAIN))
        write(b"one ")
        write(b"two ")
        return [b"three ", b"four"]

    client = await serve(wsgi(application))
    async with client.get("/") as response:
        assert (response.status, await response.read()) == (200, b"one two three four")


async def test_write_alone_is_a_whole_response(wsgi, serve):
    """An application may send all by write() and return an empty iterable."""

    def application(environ, start_response):
        start_response("200 OK", list(PLAIN))(b"all")
        return []

    client = await serve(wsgi(application))
    async with client.get("/") as response:
        assert (response.status, await response.read()) == (200, b"all")


async def test_write_leaves_before_the_application_returns(wsgi, serve):
    """write() does not return before the data is on its way."""
    received = asyncio.Event()

    def application(environ, start_response):
        start_response("200 OK", list(PLAIN))(b"first")
        await_(received.wait())
        return [b" second"]

    client = await serve(wsgi(application))
    async with client.get("/") as response:
        assert await response.content.readexactly(5) == b"first"
        received.set()
        assert await response.read() == b" second"


async def test_each_chunk_leaves_before_the_next_is_asked_for(wsgi, serve):
    """A chunk is sent when it was yielded; the server never waits for another."""
    received = asyncio.Event()

    def application(environ, start_response):
        start_response("200 OK", list(PLAIN))
        yield b"first"
        await_(received.wait())
        yield b" second"

    client = await serve(wsgi(application))
    async with client.get("/") as response:
        assert await response.content.readexactly(5) == b"first"
        received.set()
        assert await response.read() == b" second"


@pytest.mark.parametrize("kind", [list, tuple])
async def test_list_or_tuple_body_gets_its_content_length(wsgi, serve, kind):
    """A list or tuple is the whole body, so its length is known and declared."""

    def application(environ, start_response):
        start_response("200 OK", list(PLAIN))
        return kind([b"one ", b"two"])

    client = await serve(wsgi(application))
    async with client.get("/") as response:
        assert response.headers["Content-Length"] == "7"
        assert "Transfer-Encoding" not in response.headers
        assert await response.read() == b"one two"


async def test_iterator_body_without_length_is_chunked(wsgi, serve):
    """The length of an iterator is not known: HTTP/1.1 clients are sent chunks."""

    def application(environ, start_response):
        start_response("200 OK", list(PLAIN))
        return iter([b"one ", b"two"])

    client = await serve(wsgi(application))
    async with client.get("/") as response:
        assert response.headers["Transfer-Encoding"] == "chunked"
        assert "Content-Length" not in response.headers
        assert await response.read() == b"one two"


async def test_iterator_body_for_http_1_0_ends_with_the_connection(wsgi, serve, connect):
    """An HTTP/1.0 client knows no chunks: closing the connection marks the end."""

    def application(environ, start_response):
        start_response("200 OK", list(PLAIN))
        return iter([b"one ", b"two"])

    reader, writer = await connect(await serve(wsgi(application)))
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert body == b"one two"


async def test_iterator_body_with_content_length_is_not_chunked(wsgi, serve):
    """A declared length is kept for an iterator of several chunks."""

    def application(environ, start_response):
        start_response("200 OK", [*PLAIN, ("Content-Length", "7")])
        return iter([b"one ", b"two"])

    client = await serve(wsgi(application))
    async with client.get("/") as response:
        assert response.headers["Content-Length"] == "7"
        assert "Transfer-Encoding" not in response.headers
        assert await response.read() == b"one two"


@pytest.mark.parametrize("kind", [list, iter])
async def test_body_shorter_than_content_length_closes_the_connection(
    wsgi, serve, connect, caplog, kind
):
    """The client of a too short body is not left waiting, and the mistake is logged."""

    def application(environ, start_response):
        start_response("200 OK", [*PLAIN, ("Content-Length", "10")])
        return kind([b"one", b"two"])

    reader, writer = await connect(await serve(wsgi(application)))
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    async with asyncio.timeout(30):
        await reader.read()  # It ends: the server has closed the connection.
    assert "declared a Content-Length of 10 bytes but sent" in caplog.text


@pytest.mark.parametrize("kind", [list, iter])
async def test_body_longer_than_content_length_is_cut(wsgi, serve, connect, kind):
    """Not one byte more than declared is sent: it would be taken for the next response."""

    def application(environ, start_response):
        start_response("200 OK", [*PLAIN, ("Content-Length", "4")])
        return kind([b"one ", b"two"])

    reader, writer = await connect(await serve(wsgi(application)))
    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    writer.write(request)
    async with asyncio.timeout(30):
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Content-Length: 4\r\n" in head
        assert await reader.readexactly(4) == b"one "
        writer.write(request.replace(b"1.1\r\n", b"1.1\r\nConnection: close\r\n"))
        rest = await reader.read()
    assert rest == b"" or rest.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("kind", [list, iter])
async def test_chunk_that_is_not_bytes_is_500_and_named(wsgi, serve, caplog, kind):
    """A chunk of type str is refused before anything is sent."""

    def application(environ, start_response):
        start_response("200 OK", list(PLAIN))
        return kind(["text"])

    client = await serve(wsgi(application))
    async with client.get("/") as response:
        assert response.status == 500
    assert "TypeError" in caplog.text
    assert "str" in caplog.text


async def test_write_of_text_is_500_and_named(wsgi, serve, caplog):
    """write() takes bytes only."""

    def application(environ, start_response):
        start_response("200 OK", list(PLAIN))("text")
        return []

    client = await serve(wsgi(application))
    async with client.get("/") as response:
        assert response.status == 500
    assert "must send bytes, not str" in caplog.text


# --- close()


@pytest.mark.parametrize("kind", [Body, ListBody])
async def test_close_is_called_once_after_full_response(wsgi, serve, eventually, kind):
    """The iterable is closed exactly once after its last chunk."""
    bodies = []

    def application(environ, start_response):
        start_response("200 OK", list(PLAIN))
        bodies.append(kind([b"one", b"two"]))
        return bodies[-1]

    client = await serve(wsgi(application))
    async with client.get("/") as response:
        assert await response.read() == b"onetwo"
    await eventually(lambda: bodies[0].closed)
    async with client.get("/") as response:
        await response.read()
    await eventually(lambda: bodies[1].closed)
    assert [body.closed for body in bodies] == [1, 1]


async def test_close_is_called_once_for_head(wsgi, serve, eventually):
    """The iterable of a response to HEAD is closed although its body is not sent."""
    body = Body([b"one", b"two"])

    def application(environ, start_response):
        start_response("200 OK", list(PLAIN))
        return body

    client = await serve(wsgi(application))
    async with client.head("/") as response:
        assert await response.read() == b""
    await eventually(lambda: body.closed)
    assert body.closed == 1


async def test_close_is_called_once_after_disconnect(wsgi, serve, eventually):
    """The iterable is closed exactly once when the client goes away, also while it waits."""

    def endless() -> Iterator[bytes]:
        yield b"first"
        await_(asyncio.Event().wait())
        raise AssertionError("never reached")

    body = Body(endless())

    def application(environ, start_response):
        start_response("200 OK", list(PLAIN))
        return body

    client = await serve(wsgi(application))
    async with client.get("/") as response:
        await response.content.readexactly(5)
        response.close()
    await eventually(lambda: body.closed)
    await client.close()
    assert body.closed == 1


async def test_close_is_called_once_after_error_in_iterable(wsgi, serve, eventually):
    """The iterable is closed exactly once when it raises."""

    def failing() -> Iterator[bytes]:
        yield b"first"
        raise ValueError("wrong")

    body = Body(failing())

    def application(environ, start_response):
        start_response("200 OK", list(PLAIN))
        return body

    client = await serve(wsgi(application))
    async with client.get("/") as response:
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    await eventually(lambda: body.closed)
    assert body.closed == 1


async def test_close_is_called_once_after_refused_chunk(wsgi, serve, eventually):
    """The iterable is closed exactly once when the server refuses what it yields."""
    body = Body(["text"])

    def application(environ, start_response):
        start_response("200 OK", list(PLAIN))
        return body

    client = await serve(wsgi(application))
    async with client.get("/") as response:
        assert response.status == 500
    await eventually(lambda: body.closed)
    assert body.closed == 1


async def test_error_in_close_is_logged_and_server_goes_on(wsgi, serve, eventually, caplog):
    """A close() that fails is logged; the client has its response, and the next one too."""

    class Failing(ListBody):
        def close(self) -> None:
            raise ValueError("cannot close")

    def application(environ, start_response):
        start_response("200 OK", list(PLAIN))
        return Failing([b"body"])

    client = await serve(wsgi(application))
    for _ in range(2):
        async with client.get("/", headers={"Connection": "close"}) as response:
            assert (response.status, await response.read()) == (200, b"body")
    await eventually(lambda: caplog.text.count("ValueError: cannot close") == 2)


# --- middlewares


Order = Callable[[Flask, Callable[[Any], Any]], None]


@pytest.fixture(params=["before", "after"])
def wrap(request: pytest.FixtureRequest) -> Order:
    """Put a middleware around an app and add the extension, in either order."""

    def install(app: Flask, middleware: Callable[[Any], Any]) -> None:
        if request.param == "after":
            AioHTTP(app)
        app.wsgi_app = middleware(app.wsgi_app)  # type: ignore[method-assign]
        if request.param == "before":
            AioHTTP(app)

    return install


@pytest.fixture
def views(app: Flask) -> Flask:
    """An app with a coroutine view, a synchronous view, a stream and a failing coroutine."""

    @app.get("/coroutine")
    async def coroutine() -> Any:
        await asyncio.sleep(0)
        return {"remote": request.remote_addr, "url": url_for("coroutine", _external=True)}

    @app.get("/sync")
    def sync() -> Any:
        return {"remote": request.remote_addr, "url": url_for("sync", _external=True)}

    @app.get("/stream")
    async def stream() -> Any:
        async def chunks() -> Any:
            for word in ("one ", "two"):
                await asyncio.sleep(0)
                yield word

        return chunks()

    @app.get("/failing")
    async def failing() -> Any:
        await asyncio.sleep(0)
        raise LookupError("no such thing")

    return app


@pytest.mark.parametrize("path", ["/coroutine", "/sync"])
async def test_proxy_fix_sets_address_and_url(views, wrap, serve, path):
    """ProxyFix's view of the client and the URL reaches views of both kinds."""
    wrap(views, lambda wsgi: ProxyFix(wsgi, x_for=1, x_proto=1, x_host=1, x_prefix=1))
    client = await serve(views)
    headers = {
        "X-Forwarded-For": "203.0.113.7",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "shop.example",
        "X-Forwarded-Prefix": "/de",
    }
    async with client.get(path, headers=headers) as response:
        assert await response.json() == {
            "remote": "203.0.113.7",
            "url": f"https://shop.example/de{path}",
        }


async def test_dispatcher_middleware_mounts_another_app(views, wrap, serve):
    """DispatcherMiddleware around the app serves the app and what is mounted beside it."""

    def other(environ, start_response):
        start_response("200 OK", list(PLAIN))
        return [f"{environ['SCRIPT_NAME']} {environ['PATH_INFO']}".encode()]

    wrap(views, lambda wsgi: DispatcherMiddleware(wsgi, {"/other": other}))
    client = await serve(views)
    async with client.get("/other/page") as response:
        assert await response.text() == "/other /page"
    async with client.get("/coroutine") as response:
        assert response.status == 200
    async with client.get("/stream") as response:
        assert await response.text() == "one two"


async def test_dispatcher_middleware_mounts_second_flask_app_with_coroutines(views, wrap, serve):
    """A plain Flask app mounted beside may have coroutine views too, if it has the extension."""
    second = Flask("second")
    AioHTTP(second)

    @second.get("/page")
    async def page() -> str:
        await asyncio.sleep(0)
        return url_for("page")

    wrap(views, lambda wsgi: DispatcherMiddleware(wsgi, {"/second": second}))
    client = await serve(views)
    async with client.get("/second/page") as response:
        assert (response.status, await response.text()) == (200, "/second/page")


@pytest.mark.parametrize("path", ["/coroutine", "/sync", "/stream"])
async def test_profiler_middleware_profiles_views(views, wrap, serve, path):
    """ProfilerMiddleware reports each request, coroutine or not."""
    report = io.StringIO()
    wrap(views, lambda wsgi: ProfilerMiddleware(wsgi, stream=report))
    client = await serve(views)
    async with client.get(path) as response:
        assert response.status == 200
        await response.read()
    assert f"PATH: '{path}'" in report.getvalue()
    assert "dispatch_request" in report.getvalue()


async def test_debugged_application_shows_error_of_coroutine(views, wrap, serve):
    """DebuggedApplication around the app shows the error page for a coroutine view."""
    views.debug = True
    wrap(views, lambda wsgi: DebuggedApplication(wsgi, evalex=False))
    client = await serve(views)
    async with client.get("/failing") as response:
        page = await response.text()
    assert response.status == 500
    assert "LookupError: no such thing" in page
    assert "in <code" in page
    assert "failing" in page
    async with client.get("/stream") as response:
        assert await response.text() == "one two"


@pytest.mark.parametrize("path", ["/coroutine", "/sync", "/stream"])
async def test_users_middleware_sees_environ_headers_and_body(views, wrap, serve, eventually, path):
    """A middleware changes the environ, the headers and the body, as under any WSGI server."""
    closed = []

    class Upper:
        def __init__(self, wsgi: Any) -> None:
            self.wsgi = wsgi

        def __call__(self, environ: Any, start_response: Any) -> Any:
            environ["REMOTE_ADDR"] = "198.51.100.1"

            def start(status: str, headers: Any, exc_info: Any = None) -> Any:
                return start_response(status, [*headers, ("X-Middleware", "seen")], exc_info)

            body = self.wsgi(environ, start)
            try:
                for chunk in body:
                    yield chunk.upper()
            finally:
                body.close()
                closed.append(path)

    wrap(views, Upper)
    client = await serve(views)
    async with client.get(path) as response:
        text = await response.text()
    assert response.status == 200
    assert response.headers["X-Middleware"] == "seen"
    assert ("198.51.100.1" in text) or text == "ONE TWO"
    assert text == text.upper()
    await eventually(lambda: closed)  # A worker thread closes it after the body was sent.
    assert closed == [path]


async def test_middleware_answers_without_calling_the_app(views, wrap, serve):
    """A middleware may answer a coroutine view's URL itself."""

    def guard(wsgi: Any) -> Any:
        def call(environ: Any, start_response: Any) -> Any:
            if "HTTP_AUTHORIZATION" not in environ:
                return Response("who are you?", 401)(environ, start_response)
            return wsgi(environ, start_response)

        return call

    wrap(views, guard)
    client = await serve(views)
    async with client.get("/coroutine") as response:
        assert (response.status, await response.text()) == (401, "who are you?")
    async with client.get("/coroutine", headers={"Authorization": "me"}) as response:
        assert response.status == 200


async def test_middleware_waits_for_the_loop(views, wrap, serve):
    """A middleware may use await_ itself, on whichever side the request runs."""

    def checked(wsgi: Any) -> Any:
        def call(environ: Any, start_response: Any) -> Any:
            environ["shop.user"] = await_(asyncio.sleep(0, "anna"))
            return wsgi(environ, start_response)

        return call

    async def user_in_coroutine() -> str:
        return str(request.environ["shop.user"])

    views.add_url_rule("/user/coroutine", view_func=user_in_coroutine)
    views.add_url_rule("/user/sync", view_func=lambda: request.environ["shop.user"])
    views.view_functions["user_in_coroutine"] = user_in_coroutine
    wrap(views, checked)
    client = await serve(views)
    for path in ("/user/coroutine", "/user/sync"):
        async with client.get(path) as response:
            assert await response.text() == "anna"
