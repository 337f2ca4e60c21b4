"""send_file: the kernel's sendfile, ranges, conditional requests."""

from __future__ import annotations

import asyncio
import io
import os

import pytest
from flask import send_file

pytestmark = pytest.mark.usefixtures("aio")

CONTENT = bytes(range(256)) * 4000


@pytest.fixture
def path(tmp_path):
    """A file of about one megabyte."""
    path = tmp_path / "file.bin"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
async def sendfile(monkeypatch):
    """The (offset, count) of each call of the loop's sendfile, which is really made."""
    calls = []
    loop = asyncio.get_running_loop()
    plain = loop.sendfile

    async def spy(transport, file, offset=0, count=None, **kwargs):
        calls.append((offset, count))
        return await plain(transport, file, offset, count, **kwargs)

    monkeypatch.setattr(loop, "sendfile", spy)
    return calls


@pytest.fixture(params=["sync", "coroutine"])
def view(app, request, path):
    """The file as a view of either kind at /."""

    def send():
        return send_file(path)

    async def coroutine():
        await asyncio.sleep(0)
        return send()

    app.add_url_rule("/", "view", coroutine if request.param == "coroutine" else send)


pytest_view = pytest.mark.usefixtures("view")


@pytest_view
async def test_send_file_uses_sendfile(app, serve, sendfile):
    """A whole file leaves by sendfile, with its length, and the connection goes on."""
    client = await serve(app)
    for _ in range(2):
        answer = await client.get("/")
        assert await answer.read() == CONTENT
        assert answer.headers["Content-Length"] == str(len(CONTENT))
    assert sendfile == [(0, len(CONTENT))] * 2 or sendfile == [(0, None)] * 2


@pytest_view
@pytest.mark.parametrize(
    ("spec", "start", "end"),
    [("0-9", 0, 10), ("1000-", 1000, None), ("-10", -10, None), ("500-99999999", 500, None)],
)
async def test_single_range_is_sent_by_sendfile(app, serve, sendfile, spec, start, end):
    """A range of the file is answered with 206 and leaves by sendfile too."""
    client = await serve(app)
    answer = await client.get("/", headers={"Range": f"bytes={spec}"})
    expected = CONTENT[start:end]
    assert answer.status == 206
    assert await answer.read() == expected
    first = start % len(CONTENT)
    last = first + len(expected) - 1
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{len(CONTENT)}"
    assert sendfile == [(first, len(expected))]


@pytest_view
async def test_range_beyond_the_file_gives_416(app, serve):
    """A range that begins after the end of the file is refused."""
    client = await serve(app)
    answer = await client.get("/", headers={"Range": "bytes=99999999-"})
    assert answer.status == 416


@pytest_view
async def test_conditional_requests_give_304(app, serve, sendfile):
    """If-None-Match and If-Modified-Since of an unchanged file are answered without its body."""
    client = await serve(app)
    first = await client.get("/")
    await first.read()
    sendfile.clear()
    for name, value in (("If-None-Match", "ETag"), ("If-Modified-Since", "Last-Modified")):
        answer = await client.get("/", headers={name: first.headers[value]})
        assert (answer.status, await answer.read()) == (304, b"")
    assert sendfile == []


@pytest_view
async def test_if_range_of_another_version_gives_the_whole_file(app, serve):
    """If-Range with the file's ETag gives the range, with another one the whole file."""
    client = await serve(app)
    etag = (await client.head("/")).headers["ETag"]
    for condition, status, size in ((etag, 206, 10), ('"other"', 200, len(CONTENT))):
        headers = {"Range": "bytes=0-9", "If-Range": condition}
        answer = await client.get("/", headers=headers)
        assert (answer.status, len(await answer.read())) == (status, size)


@pytest_view
async def test_head_of_a_file_has_its_length_and_no_body(app, serve, sendfile):
    """HEAD tells the file's length and sends nothing of it."""
    client = await serve(app)
    answer = await client.head("/")
    assert answer.headers["Content-Length"] == str(len(CONTENT))
    assert await answer.read() == b""
    assert sendfile == []


async def test_empty_file_is_sent(app, serve, connect, tmp_path):
    """An empty file is an empty body, and the next request of the connection is served."""
    path = tmp_path / "empty"
    path.touch()
    app.get("/")(lambda: send_file(path, mimetype="text/plain"))
    client = await serve(app)
    for _ in range(2):
        answer = await client.get("/")
        assert (answer.status, await answer.read()) == (200, b"")


@pytest.mark.parametrize("is_coroutine", [True, False], ids=["coroutine", "sync"])
async def test_file_in_memory_is_sent(app, serve, sendfile, is_coroutine):
    """A BytesIO, which the kernel cannot send, is read and sent."""

    def send():
        return send_file(io.BytesIO(CONTENT), mimetype="a/b")

    async def coroutine():
        return send()

    app.add_url_rule("/", "view", coroutine if is_coroutine else send)
    client = await serve(app)
    assert await (await client.get("/")).read() == CONTENT
    assert sendfile == []


async def test_open_file_is_sent_from_its_position_and_closed(app, serve, eventually, path):
    """A file object is sent from where it stands, and closed afterwards."""
    files = []

    @app.get("/")
    async def view():
        file = path.open("rb")
        file.seek(100)
        files.append(file)
        return send_file(file, mimetype="a/b")

    client = await serve(app)
    assert await (await client.get("/")).read() == CONTENT[100:]
    await eventually(lambda: files[0].closed)


async def test_sendfile_used_when_wrapped_by_middleware(app, serve, sendfile, path):
    """A middleware that returns the file wrapper as it is keeps sendfile."""
    plain = app.wsgi_app
    app.wsgi_app = lambda environ, start_response: plain(environ, start_response)
    app.get("/")(lambda: send_file(path))
    client = await serve(app)
    assert await (await client.get("/")).read() == CONTENT
    assert len(sendfile) == 1


async def test_loop_without_sendfile_reads_the_file(app, serve, monkeypatch, path):
    """Where the loop cannot do sendfile, as uvloop, the file is read in pieces."""

    async def missing(*_, **__):
        raise NotImplementedError

    monkeypatch.setattr(asyncio.get_running_loop(), "sendfile", missing)
    app.get("/")(lambda: send_file(path))
    client = await serve(app)
    assert await (await client.get("/")).read() == CONTENT
    answer = await client.get("/", headers={"Range": "bytes=5-300000"})
    assert await answer.read() == CONTENT[5:300001]


@pytest.mark.parametrize("native", [True, False], ids=["sendfile", "pieces"])
async def test_file_that_shrinks_breaks_the_connection(
    app, serve, connect, caplog, monkeypatch, path, native
):
    """A file shorter than the declared length ends the connection: the client must notice."""
    if not native:

        async def missing(*_, **__):
            raise NotImplementedError

        monkeypatch.setattr(asyncio.get_running_loop(), "sendfile", missing)

    @app.get("/")
    async def view():
        response = send_file(path)
        os.truncate(path, 1000)
        return response

    reader, writer = await connect(await serve(app))
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    assert await reader.read() == CONTENT[:1000]


async def test_client_gone_in_mid_file_closes_it_without_noise(
    app, serve, connect, eventually, caplog, tmp_path
):
    """A client that leaves during sendfile is no error, and the file is closed."""
    files = []
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(200_000_000)

    @app.get("/")
    async def view():
        file = large.open("rb")
        files.append(file)
        return send_file(file, mimetype="a/b")

    reader, writer = await connect(await serve(app))
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.abort()
    await eventually(lambda: files[0].closed)
    assert [one for one in caplog.records if one.levelname in ("WARNING", "ERROR")] == []
