"""Request bodies: read through Flask's ordinary API, from memory or from the socket."""

from __future__ import annotations

import asyncio
import gzip
import io
import logging
import tracemalloc

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from flask import Response, redirect, request

pytestmark = pytest.mark.usefixtures("aio")

MIB = 1024 * 1024


def noise(caplog):
    return [one for one in caplog.records if one.levelno >= logging.WARNING]


@pytest.fixture(params=["sync", "coroutine"])
def post(app, request):
    """Decorate a synchronous function that becomes a view of either kind, for POST to /."""

    def decorate(function):
        def view():
            return function()

        async def coroutine():
            await asyncio.sleep(0)
            return function()

        chosen = coroutine if request.param == "coroutine" else view
        app.add_url_rule("/", "view", chosen, methods=["POST"])
        return function

    return decorate


async def pieces(data, size=1000):
    """A body of unknown length, which aiohttp's client sends chunked."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [0, 10, 200_000])
async def test_json_body_is_read(app, serve, post, size, chunked):
    """request.json works for small, large and chunked bodies."""
    post(lambda: str(len(request.json["text"])))
    client = await serve(app)
    body = b'{"text": "%s"}' % (b"x" * size)
    headers = {"Content-Type": "application/json"}
    data = pieces(body) if chunked else body
    answer = await client.post("/", data=data, headers=headers)
    assert await answer.text() == str(size)


@pytest.mark.parametrize("size", [10, 200_000])
async def test_form_body_is_read(app, serve, post, size):
    """request.form works for small and large bodies."""
    post(lambda: f"{request.form['a']} {len(request.form['b'])}")
    client = await serve(app)
    answer = await client.post("/", data={"a": "1", "b": "x" * size})
    assert await answer.text() == f"1 {size}"


async def test_multipart_files_are_read(app, serve, post):
    """request.files has the uploaded files beside the fields of the form."""

    def view():
        file = request.files["file"]
        return f"{request.form['a']} {file.filename} {len(file.read())}"

    post(view)
    client = await serve(app)
    form = aiohttp.FormData({"a": "1"})
    form.add_field("file", io.BytesIO(b"x" * 700_000), filename="f.bin")
    assert await (await client.post("/", data=form)).text() == "1 f.bin 700000"


@pytest.mark.parametrize("chunked", [False, True])
async def test_raw_stream_is_read_in_pieces(app, serve, post, chunked):
    """request.stream can be read piece by piece, to its end and no further."""

    def view():
        total = 0
        while piece := request.stream.read(4096):
            total += len(piece)
        return f"{total} {request.stream.read()!r}"

    post(view)
    client = await serve(app)
    body = b"x" * 300_000
    answer = await client.post("/", data=pieces(body) if chunked else body)
    assert await answer.text() == "300000 b''"


async def test_lines_of_a_stream_are_read(app, serve, post):
    """request.stream is iterated by lines, as files are."""
    post(lambda: "|".join(line.decode().strip() for line in request.stream))
    client = await serve(app)
    assert await (await client.post("/", data=pieces(b"a\nbb\nccc", 2))).text() == "a|bb|ccc"


@pytest.mark.parametrize("mib", [2, 20])
async def test_upload_above_1_mib_and_above_16_mib(app, serve, post, mib):
    """No limit of aiohttp's own applies to a body."""
    post(lambda: str(len(request.get_data())))
    client = await serve(app)
    answer = await client.post("/", data=io.BytesIO(b"x" * (mib * MIB)))
    assert await answer.text() == str(mib * MIB)


@pytest.mark.parametrize("kind", ["small", "large", "chunked", "multipart_preamble", "form"])
async def test_413_delivered_not_reset(app, serve, post, kind):
    """Over MAX_CONTENT_LENGTH the client gets to read 413, however the body is sent."""
    app.config["MAX_CONTENT_LENGTH"] = 1000
    reads_form = kind in ("form", "multipart_preamble")
    post(lambda: str(request.form if reads_form else len(request.get_data())))
    client = await serve(app)
    headers = {}
    data = b"x" * (2000 if kind == "small" else 3 * MIB)
    if kind == "form":
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    if kind == "multipart_preamble":
        headers["Content-Type"] = "multipart/form-data; boundary=b"
        data = data[: 100 * 1000]
    is_chunked = kind in ("chunked", "multipart_preamble")
    answer = await client.post(
        "/", data=pieces(data) if is_chunked else io.BytesIO(data), headers=headers
    )
    assert answer.status == 413


async def test_redirect_after_unread_upload(app, serve):
    """A view may answer without reading the body; the client gets the answer, not a reset."""

    @app.post("/")
    async def view():
        return redirect("/elsewhere")

    client = await serve(app)
    answer = await client.post("/", data=io.BytesIO(b"x" * (5 * MIB)), allow_redirects=False)
    assert (answer.status, answer.headers["Location"]) == (302, "/elsewhere")


async def test_next_request_after_an_unread_body(app, serve, connect):
    """A body that the app did not read is not taken for the next request."""

    @app.post("/")
    async def view():
        return "unread"

    reader, writer = await connect(await serve(app))
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"
    body = b"GET /evil HTTP/1.1\r\n\r\n".ljust(100_000, b"x")
    for _ in range(2):
        writer.write(head + body)
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(6) == b"unread"


# Expect: 100-continue

EXPECT = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"


async def test_expect_100_continue_only_when_body_is_read(app, serve, connect, post):
    """100 Continue is sent when the app reads, once, and then the real response follows."""
    post(lambda: request.get_data())
    reader, writer = await connect(await serve(app))
    writer.write(EXPECT)
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"body")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
    assert await reader.readexactly(4) == b"body"


async def test_expect_100_continue_is_not_sent_by_an_app_that_refuses(app, serve, connect, post):
    """An app that answers 401 without reading never asks for the body; the connection closes."""
    post(lambda: ("no", 401))
    reader, writer = await connect(await serve(app))
    writer.write(EXPECT)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 401 ")
    assert await reader.readexactly(2) == b"no"
    writer.write_eof()
    assert await reader.read() == b""


async def test_unknown_expectation_is_answered_with_417(app, serve, connect, post):
    """An expectation that no one knows is refused."""
    post(lambda: "ok")
    reader, writer = await connect(await serve(app))
    writer.write(EXPECT.replace(b"100-continue", b"a-miracle"))
    assert (await reader.readline()).startswith(b"HTTP/1.1 417 ")


# Broken bodies


@pytest.mark.parametrize("length", [100, 1_000_000], ids=["small", "large"])
async def test_client_gone_in_mid_body_makes_no_noise(
    app, serve, connect, eventually, caplog, post, length
):
    """A client that leaves in the middle of its body is neither a 500 nor a log line."""
    torn_down: list[BaseException | None] = []
    transports = []
    app.teardown_request(torn_down.append)
    post(lambda: str(len(request.get_data())))
    client = await serve(app)
    server = client.server.runner.server
    _, writer = await connect(client)
    writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\nabc" % length)
    await writer.drain()
    await eventually(lambda: server.connections)
    transports.extend(server.connections)
    writer.transport.abort()
    await eventually(lambda: not server.connections)
    if length > 65536:
        await eventually(lambda: torn_down)
    assert noise(caplog) == []


async def test_malformed_chunked_body_gives_400(app, serve, connect, post):
    """Broken chunked framing is the client's fault: status 400."""
    post(lambda: str(len(request.get_data())))
    reader, writer = await connect(await serve(app))
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    writer.write(head + b"3\r\nabc\r\nnonsense\r\n")
    assert b" 400 " in await reader.readline()


# Content-Encoding


@pytest.mark.parametrize("size", [10, 5000, 300_000])
async def test_gzip_body_reaches_the_root_app_raw(app, serve, post, size):
    """A compressed body is passed as it is, with the headers that describe it."""

    def view():
        data = request.get_data()
        assert len(data) == request.content_length
        return f"{request.headers['Content-Encoding']} {len(gzip.decompress(data))}"

    post(view)
    client = await serve(app)
    headers = {"Content-Encoding": "gzip", "Content-Type": "text/plain"}
    answer = await client.post("/", data=gzip.compress(b"x" * size), headers=headers)
    assert await answer.text() == f"gzip {size}"


@pytest.mark.parametrize("size", [1, 5000, 300_000])
async def test_gzip_body_reaches_a_mounted_app_decompressed(app, post, size):
    """Where the outer application undoes the coding, the app gets the whole plain body."""

    def view():
        assert "Content-Encoding" not in request.headers
        assert request.content_length is None
        return str(len(request.get_data()))

    post(view)
    outer = web.Application()
    outer.add_subapp("/sub", app.aiohttp_app)
    async with TestClient(TestServer(outer)) as client:
        headers = {"Content-Encoding": "gzip", "Content-Type": "text/plain"}
        answer = await client.post("/sub/", data=gzip.compress(b"x" * size), headers=headers)
        assert (answer.status, await answer.text()) == (200, str(size))


# Memory


@pytest.fixture
def peak():
    """Trace allocations; return a function for the most that was held at once."""
    tracemalloc.start()
    base = tracemalloc.get_traced_memory()[0]
    yield lambda: tracemalloc.get_traced_memory()[1] - base
    tracemalloc.stop()


async def test_large_upload_constant_memory(app, serve, post, peak):
    """An upload that is read in pieces is never in memory as a whole."""

    def view():
        total = 0
        while piece := request.stream.read(65536):
            total += len(piece)
        return str(total)

    post(view)
    client = await serve(app)
    block = b"x" * MIB

    async def blocks():
        for _ in range(64):
            yield block

    answer = await client.post("/", data=blocks())
    assert await answer.text() == str(64 * MIB)
    assert peak() < 16 * MIB


async def test_large_download_constant_memory(app, serve, post, peak):
    """A streamed download is never in memory as a whole, whatever the client's speed."""
    block = b"x" * MIB
    post(lambda: Response(block for _ in range(64)))
    client = await serve(app)
    answer = await client.post("/")
    total = 0
    async for piece in answer.content.iter_any():
        total += len(piece)
    assert total == 64 * MIB
    assert peak() < 16 * MIB


async def test_upload_is_held_back_while_the_app_does_not_read(
    app, serve, connect, eventually, peak
):
    """A body that the app has not asked for stays with the client: the socket is not drained."""
    go_on = asyncio.Event()
    entered = []

    @app.post("/")
    async def view():
        entered.append(True)
        await go_on.wait()
        return str(len(request.get_data()))

    reader, writer = await connect(await serve(app))
    size = 64 * MIB
    writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
    block = b"x" * MIB
    sent = 0

    async def send():
        nonlocal sent
        for _ in range(64):
            writer.write(block)
            await writer.drain()
            sent += 1

    sending = asyncio.create_task(send())
    await eventually(lambda: entered and sent)
    last = -1

    def stalled():
        nonlocal last
        before, last = last, sent
        return before == sent

    for _ in range(20):
        await eventually(stalled)
    assert sent < 32
    go_on.set()
    await sending
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    assert await reader.readexactly(8) == str(size).encode()
