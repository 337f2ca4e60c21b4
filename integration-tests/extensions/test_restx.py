"""Flask-RESTX."""

import pytest

EXTENSION = "Flask-RESTX"
APP = "restx"


@pytest.mark.covers("synchronous view")
async def test_a_resource_is_marshalled(client):
    assert (await client.get("/synchronous")).json() == {"text": "milk"}


@pytest.mark.covers("coroutine view", "payload validation")
async def test_a_method_may_be_a_coroutine_function(client):
    assert (await client.get("/coroutine/milk")).json() == {"text": "milk"}
    reply = await client.post("/coroutine/milk", json={"text": "tea"})
    assert (reply.status, reply.json(), reply.headers["X-Made"]) == (201, {"text": "tea"}, "yes")
    assert (await client.post("/coroutine/milk", json={})).status == 400


@pytest.mark.covers("errors raised by a coroutine method")
async def test_an_error_of_a_coroutine_is_answered_as_json(client):
    reply = await client.request("DELETE", "/coroutine/milk")
    assert (reply.status, reply.json()) == (409, {"message": "in use"})


@pytest.mark.covers("marshal_with over ensure_sync")
async def test_marshal_with_takes_a_coroutine_function_through_ensure_sync(client):
    assert (await client.get("/marshalled")).json() == {"text": "milk"}


@pytest.mark.covers("Swagger document")
async def test_the_document_describes_coroutine_methods(client):
    document = (await client.get("/swagger.json")).json()
    assert set(document["paths"]["/coroutine/{text}"]) >= {"get", "post", "delete"}
