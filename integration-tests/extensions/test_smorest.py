"""flask-smorest."""

import json

import pytest

EXTENSION = "flask-smorest"
APP = "smorest"


@pytest.mark.covers("synchronous view", "coroutine view", "MethodView with async def methods")
@pytest.mark.parametrize("path", ["/synchronous", "/coroutine", "/method"])
async def test_arguments_and_response_follow_the_schema(client, path):
    reply = await client.post(path, json={"text": "milk"})
    assert (reply.status, reply.json()) == (201, {"text": "milk"})
    assert (await client.post(path, json={})).status == 422


@pytest.mark.covers("pagination in a coroutine view")
async def test_pages(client):
    reply = await client.get("/pages?page=2&page_size=3")
    assert reply.json() == [{"text": "3"}, {"text": "4"}, {"text": "5"}]
    assert json.loads(reply.headers["X-Pagination"])["total"] == 25


@pytest.mark.covers("OpenAPI document")
async def test_the_document_describes_coroutine_views(client):
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert {"/synchronous", "/coroutine", "/method"} < set(paths)
