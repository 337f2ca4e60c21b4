"""Flask-DebugToolbar."""

import asyncio

import pytest

EXTENSION = "Flask-DebugToolbar"
APP = "debugtoolbar"


@pytest.mark.covers("synchronous view", "coroutine view")
@pytest.mark.parametrize("path", ["synchronous", "coroutine"])
async def test_a_page_has_the_toolbar(client, path):
    reply = await client.get(f"/{path}/milk")
    assert reply.status == 200
    assert "milk" in reply.text
    assert 'id="flDebug"' in reply.text
    assert "note milk" in reply.text  # The logging panel.


@pytest.mark.covers("stream")
async def test_a_stream_is_sent_as_it_is(client):
    assert (await client.get("/stream")).text == "milk\nmilk\n"


@pytest.mark.covers("WebSocket")
async def test_a_socket_is_left_alone(client):
    assert await client.talk("/socket", "hello") == ["hello"]


@pytest.mark.covers("pages of concurrent requests")
async def test_concurrent_pages_are_not_mixed(client):
    async def visit(text):
        body = (await client.get(f"/coroutine/{text}")).text
        assert f"<body>{text}" in body
        assert body.count('id="flDebug"') == 1

    await asyncio.gather(*(visit(f"note{number}") for number in range(10)))


@pytest.mark.covers("limit: coroutine views share the records of the logging panel")
async def test_the_logging_panel_is_the_threads(client):
    """The extension keeps the records by thread, and starts anew with each request."""
    waiting = asyncio.create_task(client.get("/waiting/tea"))
    await client.get("/started")
    assert "note milk" in (await client.get("/coroutine/milk")).text
    await client.get("/finish")
    assert "waiting tea" not in (await waiting).text
