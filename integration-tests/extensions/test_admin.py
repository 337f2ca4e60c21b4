"""Flask-Admin."""

import asyncio
import re

import pytest

EXTENSION = "Flask-Admin"
APP = "admin"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    path = tmp_path_factory.mktemp("database") / "notes.sqlite3"
    return {"FLASK_SQLALCHEMY_DATABASE_URI": f"sqlite:///{path}"}


@pytest.mark.covers("synchronous view", "create, list and delete of rows")
async def test_a_row_is_made_listed_and_deleted(client):
    reply = await client.post("/admin/note/new/?url=/admin/note/", data={"text": "milk"})
    assert reply.status == 302
    listed = (await client.get("/admin/note/?sort=0")).text
    assert "milk" in listed
    (key, *_) = re.findall(r'name="rowid"[^>]* value="(\d+)"', listed)
    reply = await client.post("/admin/note/delete/", data={"id": key})
    assert reply.status == 302
    assert "milk" not in (await client.get("/admin/note/?sort=0")).text


@pytest.mark.covers("coroutine view", "stream")
@pytest.mark.parametrize(("path", "shown"), [("", "2000 notes"), ("stream", "0\n1\n")])
async def test_an_exposed_view_may_be_a_coroutine_function(client, path, shown):
    assert (await client.get(f"/admin/report/{path}")).text == shown


@pytest.mark.covers("CSV export")
async def test_an_export_is_complete(client):
    reply = await client.get("/admin/note/export/csv/")
    assert reply.status == 200
    assert reply.text.count("note ") == 2000


@pytest.mark.covers("CSV export that the client abandons")
async def test_an_abandoned_export_is_torn_down(client):
    before = int((await client.get("/finished")).text)
    async with client.session.get("/admin/note/export/csv/") as answer:
        await answer.content.readany()
    async with asyncio.timeout(60):
        # The export's own teardown, besides those of the requests that ask.
        asked = 1
        while int((await client.get("/finished")).text) < before + asked + 1:
            asked += 1
