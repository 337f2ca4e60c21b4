"""Flask-WTF."""

import pytest

EXTENSION = "Flask-WTF"
APP = "wtf"


@pytest.mark.covers("synchronous view", "coroutine view", "stream")
@pytest.mark.parametrize(
    ("path", "shown"),
    [("/synchronous", "milk"), ("/coroutine", "milk"), ("/stream", "milk\nmilk\n")],
)
async def test_a_form_needs_the_token(client, path, shown):
    token = (await client.get("/token")).text
    assert (await client.post(path, data={"text": "milk"})).status == 400
    reply = await client.post(path, data={"text": "milk", "csrf_token": token})
    assert (reply.status, reply.text) == (200, shown)


@pytest.mark.covers("validation errors of a form")
@pytest.mark.parametrize("path", ["/synchronous", "/coroutine"])
async def test_a_form_is_validated(client, path):
    token = (await client.get("/token")).text
    reply = await client.post(path, data={"csrf_token": token})
    assert (reply.status, list(reply.json())) == (422, ["text"])


@pytest.mark.covers("csrf.exempt on a coroutine view")
async def test_an_exempt_view_needs_no_token(client):
    assert (await client.post("/exempt", data={"text": "milk"})).text == "milk"


@pytest.mark.covers("referrer check behind an https proxy")
async def test_https_of_a_proxy_makes_the_referrer_count(client):
    data = {"text": "milk", "csrf_token": (await client.get("/token")).text}
    secure = {"X-Forwarded-Proto": "https"}
    assert (await client.post("/coroutine", data=data, headers=secure)).status == 400
    host = client.session._base_url.authority
    referred = {**secure, "Referer": f"https://{host}/form"}
    assert (await client.post("/coroutine", data=data, headers=referred)).status == 200
    foreign = {**secure, "Referer": "https://elsewhere.example/"}
    assert (await client.post("/coroutine", data=data, headers=foreign)).status == 400


@pytest.mark.covers("WebSocket")
async def test_the_origin_protects_a_socket(client):
    """The extension does not look at a GET, which a handshake is."""
    assert await client.talk("/socket", "hello") == ["hello"]
    assert await client.refusal("/socket", origin="https://elsewhere.example") == 403
