"""Flask-CORS."""

import pytest

EXTENSION = "Flask-CORS"
APP = "cors"
ORIGIN = {"Origin": "https://page.example"}
ALLOWED = "Access-Control-Allow-Origin"


@pytest.mark.covers("synchronous view", "coroutine view", "stream", "cross_origin")
@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/api/synchronous", 200, "ok"),
        ("/api/coroutine", 200, "ok"),
        ("/api/stream", 200, "okok"),
        ("/decorated/synchronous", 200, "ok"),
        ("/decorated/coroutine", 201, "ok"),
        ("/decorated/stream", 200, "okok"),
    ],
)
async def test_the_page_of_the_origin_may_read(client, path, status, body):
    reply = await client.get(path, headers=ORIGIN)
    assert (reply.status, reply.text) == (status, body)
    assert reply.headers[ALLOWED] == "https://page.example"
    other = await client.get(path, headers={"Origin": "https://elsewhere.example"})
    assert other.headers.get(ALLOWED) != "https://elsewhere.example"


@pytest.mark.covers("preflight")
@pytest.mark.parametrize("path", ["/api/synchronous", "/api/coroutine", "/decorated/coroutine"])
async def test_a_preflight_is_answered(client, path):
    headers = ORIGIN | {"Access-Control-Request-Method": "GET"}
    reply = await client.request("OPTIONS", path, headers=headers)
    assert reply.status == 200
    assert reply.headers[ALLOWED] == "https://page.example"
    assert "GET" in reply.headers["Access-Control-Allow-Methods"]


@pytest.mark.covers("error responses")
async def test_an_error_may_be_read_too(client):
    reply = await client.get("/api/forbidden", headers=ORIGIN)
    assert (reply.status, reply.headers[ALLOWED]) == (403, "https://page.example")


@pytest.mark.covers("WebSocket")
async def test_a_socket_has_its_own_list_of_origins(client):
    """CORS says who may read a response; AIO_WS_ORIGINS who may open a socket."""
    assert await client.talk("/api/socket", "hello") == ["hello"]
    assert await client.refusal("/api/socket", origin="https://page.example") == 403
