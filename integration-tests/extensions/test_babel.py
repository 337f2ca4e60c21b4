"""Flask-Babel."""

import asyncio

import pytest

EXTENSION = "Flask-Babel"
APP = "babel"
MAY = {"en": "May", "de": "Mai", "fi": "toukokuuta", "fr": "mai"}


@pytest.mark.covers("synchronous view", "coroutine view", "stream")
@pytest.mark.parametrize("lang", MAY)
async def test_the_language_is_the_requests(client, lang):
    may = MAY[lang]
    assert (await client.get(f"/synchronous?lang={lang}")).text == may
    assert (await client.get(f"/coroutine?lang={lang}")).text == f"{may} {may}"
    assert (await client.get(f"/stream?lang={lang}")).text == f"{may}\n{may}\n"


@pytest.mark.covers("languages of concurrent requests kept apart")
async def test_two_languages_at_once(client):
    async def visit(lang, path, shown):
        assert (await client.get(f"/{path}?lang={lang}")).text == shown

    async with asyncio.TaskGroup() as group:
        for _ in range(10):
            for lang, may in MAY.items():
                group.create_task(visit(lang, "coroutine", f"{may} {may}"))
                group.create_task(visit(lang, "forced", f"mai {may}"))


@pytest.mark.covers("WebSocket")
async def test_a_socket_keeps_the_language_of_its_handshake(client):
    assert await client.talk("/socket?lang=de", "1", "2") == ["1 Mai", "2 Mai"]
