"""Flask-Compress."""

import pytest

EXTENSION = "Flask-Compress"
APP = "compress"


@pytest.mark.covers("synchronous view", "coroutine view", "stream")
@pytest.mark.parametrize(
    ("path", "coding"),
    [
        *(("/synchronous", coding) for coding in ("gzip", "deflate")),
        *(("/coroutine", coding) for coding in ("gzip", "deflate")),
        ("/stream", "deflate"),  # Flask-Compress has no gzip for streams.
    ],
)
async def test_a_long_response_is_compressed(client, path, coding):
    reply = await client.get(path, headers={"Accept-Encoding": coding})
    assert reply.headers["Content-Encoding"] == coding
    assert reply.text == "milk " * 1000  # The client has decompressed it.


@pytest.mark.covers("short and refused responses left as they are")
async def test_what_need_not_be_compressed_is_not(client):
    reply = await client.get("/small", headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in reply.headers
    reply = await client.get("/coroutine", headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in reply.headers
    assert len(reply.body) == 5000


@pytest.mark.covers("WebSocket")
async def test_a_socket_is_left_alone(client):
    assert await client.talk("/socket", "milk " * 1000) == ["milk " * 1000]
