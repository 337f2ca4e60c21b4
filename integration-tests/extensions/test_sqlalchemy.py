"""Flask-SQLAlchemy."""

import asyncio
import json
from uuid import uuid4

import pytest

EXTENSION = "Flask-SQLAlchemy"
APP = "sqlalchemy"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    path = tmp_path_factory.mktemp("database") / "notes.sqlite3"
    # A hundred writers take turns at the one file.
    return {"FLASK_SQLALCHEMY_DATABASE_URI": f"sqlite+aiosqlite:///{path}?timeout=60"}


@pytest.mark.covers("synchronous view", "coroutine view")
@pytest.mark.parametrize("path", ["synchronous", "coroutine"])
async def test_a_row_is_written_and_read(client, path):
    note = (await client.post(f"/{path}/milk")).json()
    assert note["text"] == "milk"
    assert (await client.get(f"/notes/{note['id']}")).text == "milk"
    assert (await client.get("/notes/987654321")).status == 404


@pytest.mark.covers("rows of 100 concurrent requests kept apart")
async def test_sessions_are_not_shared(client):
    async def add(text):
        assert (await client.post(f"/coroutine/{text}")).json()["text"] == text

    await asyncio.gather(*(add(f"note{number}") for number in range(100)))


@pytest.mark.covers("stream")
async def test_a_stream_reads_rows(client):
    mark = uuid4().hex
    for number in range(3):
        await client.post(f"/synchronous/{mark}{number}")
    reply = await client.get(f"/like/{mark}%25")
    assert reply.text == f"{mark}0\n{mark}1\n{mark}2\n"


@pytest.mark.covers("what a failed request wrote rolled back")
async def test_a_failed_request_leaves_nothing(client):
    assert (await client.post("/fail/abandoned")).status == 409
    assert (await client.get("/like/abandoned")).text == ""


@pytest.mark.covers("WebSocket", "asyncio drivers by changing the URL")
async def test_a_socket_has_a_session_for_each_message(client):
    one, two = map(json.loads, await client.talk("/socket", "one", "two"))
    assert (one["text"], two["text"]) == ("one", "two")
    assert one["id"] != two["id"]
