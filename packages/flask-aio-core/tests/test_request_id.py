"""The id of a request: accepted or made, and passed on."""

from __future__ import annotations

import asyncio
import logging
import re

import pytest
from flask import request

from flask_aio_core import RequestIDFilter, await_, in_thread

MADE = re.compile(r"[0-9a-f]{32}")


@pytest.fixture
def served(app, aio):
    """An app whose views answer with what they know of the id."""
    app.config["AIO_REQUEST_ID"] = "accept"

    def known():
        return {
            "id": aio.request_id,
            "environ": request.environ["flask_aio.request_id"],
            "header": request.headers["X-Request-ID"],
        }

    @app.get("/coroutine")
    async def coroutine():
        await asyncio.sleep(0)
        return known()

    @app.get("/synchronous")
    def synchronous():
        return known()

    @app.get("/own")
    async def own():
        return "own", {"x-request-id": "the app's"}

    return app


@pytest.mark.parametrize("path", ["/coroutine", "/synchronous"])
async def test_an_id_is_accepted_and_passed_on(served, serve, path):
    """The client's id is what the app sees in every place, and comes back."""
    client = await serve(served)
    response = await client.get(path, headers={"X-Request-ID": "a-1/2:3~"})
    assert set((await response.json()).values()) == {"a-1/2:3~"}
    assert response.headers.getall("X-Request-ID") == ["a-1/2:3~"]


@pytest.mark.parametrize("path", ["/coroutine", "/synchronous"])
@pytest.mark.parametrize("given", [None, "", "two words", "x" * 129, "caf\u00e9", "a\tb"])
async def test_an_id_is_made(served, serve, path, given):
    """Without a valid id the request gets a new one, and the bad one is seen nowhere."""
    client = await serve(served)
    headers = {} if given is None else {"X-Request-ID": given}
    responses = [await client.get(path, headers=headers) for _ in range(2)]
    ids = [response.headers["X-Request-ID"] for response in responses]
    assert ids[0] != ids[1]
    assert all(MADE.fullmatch(one) for one in ids)
    assert set((await responses[0].json()).values()) == {ids[0]}


async def test_the_longest_id(served, serve):
    """128 characters are accepted."""
    client = await serve(served)
    response = await client.get("/coroutine", headers={"X-Request-ID": "x" * 128})
    assert response.headers["X-Request-ID"] == "x" * 128


async def test_make_accepts_none(served, serve):
    """A server without a proxy in front can have its own ids only."""
    served.config["AIO_REQUEST_ID"] = "make"
    client = await serve(served)
    response = await client.get("/coroutine", headers={"X-Request-ID": "theirs"})
    assert MADE.fullmatch(response.headers["X-Request-ID"])
    assert (await response.json())["header"] == response.headers["X-Request-ID"]


async def test_without_the_key_there_are_no_ids(app, aio, serve):
    """By default nothing is taken, made or sent."""

    @app.get("/")
    async def view():
        return {
            "id": aio.request_id,
            "environ": "flask_aio.request_id" in request.environ,
            "header": request.headers["X-Request-ID"],
        }

    client = await serve(app)
    response = await client.get("/", headers={"X-Request-ID": "theirs"})
    assert await response.json() == {"id": None, "environ": False, "header": "theirs"}
    assert "X-Request-ID" not in response.headers


async def test_another_header(served, serve):
    """The name of the header can be chosen."""
    served.config["AIO_REQUEST_ID_HEADER"] = "X-Correlation-ID"

    @served.get("/header")
    async def header():
        return request.headers["X-Correlation-ID"]

    client = await serve(served)
    response = await client.get("/header", headers={"X-Correlation-ID": "c-1"})
    assert response.headers["X-Correlation-ID"] == await response.text() == "c-1"
    assert "X-Request-ID" not in response.headers


async def test_the_apps_own_header_is_kept(served, serve):
    """What the app has set itself is not set again."""
    client = await serve(served)
    response = await client.get("/own")
    assert response.headers.getall("X-Request-ID") == ["the app's"]


async def test_answers_that_are_not_the_apps_have_it(served, serve):
    """So have the server's own 500, and the 503 when all threads are busy."""
    served.config.update(PROPAGATE_EXCEPTIONS=True, AIO_WORKER_THREADS=1, AIO_WORKER_QUEUE=0)

    @served.get("/fails")
    async def fails():
        raise RuntimeError

    @served.get("/busy")
    async def busy():
        @in_thread
        def hold():
            response = await_(client.get("/synchronous", headers={"X-Request-ID": "b"}))
            return response.status, response.headers["X-Request-ID"]

        return list(hold())

    client = await serve(served)
    response = await client.get("/fails", headers={"X-Request-ID": "a"})
    assert (response.status, response.headers["X-Request-ID"]) == (500, "a")
    response = await client.get("/busy")
    assert await response.json() == [503, "b"]


async def test_streams_have_it_to_their_end(served, aio, serve):
    """The id is there in every step of a stream, on either side."""

    @served.get("/async")
    async def async_stream():
        for _ in range(3):
            yield f"{aio.request_id} "
            await asyncio.sleep(0)

    @served.get("/sync")
    def sync_stream():
        return (f"{aio.request_id} " for _ in range(3))

    client = await serve(served)
    for path in ("/async", "/sync"):
        response = await client.get(path, headers={"X-Request-ID": "s"})
        assert response.headers["X-Request-ID"] == "s"
        assert await response.text() == "s s s "


async def test_ids_of_simultaneous_requests_do_not_mix(served, serve):
    """Each request keeps its own."""
    client = await serve(served)

    async def check(number):
        for path in ("/coroutine", "/synchronous"):
            response = await client.get(path, headers={"X-Request-ID": f"n{number}"})
            assert set((await response.json()).values()) == {f"n{number}"}

    await asyncio.gather(*map(check, range(20)))


class Records(logging.Handler):
    def __init__(self):
        super().__init__()
        self.seen: list[tuple[str, str]] = []

    def emit(self, record):
        self.seen.append((record.getMessage(), record.request_id))


@pytest.fixture
def records():
    """Messages with their request ids."""
    handler = Records()
    handler.addFilter(RequestIDFilter())
    root = logging.getLogger()
    root.addHandler(handler)
    yield handler.seen
    root.removeHandler(handler)


async def test_log_records(served, aio, serve, records, eventually):
    """Records of views, threads, background tasks and of the server have it; others a hyphen."""
    log = logging.getLogger("shop.views")

    @served.get("/log")
    async def view():
        log.warning("view")
        in_thread(log.warning)("in_thread")
        aio.spawn(later())
        return "ok"

    async def later():
        log.warning("background")

    @served.get("/log-in-thread")
    def logs_in_thread():
        log.warning("synchronous")
        raise SystemExit  # Flask does not handle it: the server logs it.

    client = await serve(served)
    await client.get("/log", headers={"X-Request-ID": "1"})
    await client.get("/log-in-thread", headers={"X-Request-ID": "2"})
    await eventually(lambda: len(records) >= 5)
    log.warning("outside")
    assert set(records) == {
        ("view", "1"),
        ("in_thread", "1"),
        ("background", "1"),
        ("synchronous", "2"),
        ("Error on GET /log-in-thread", "2"),
        ("outside", "-"),
    }


async def test_a_native_route_has_no_id(served, serve, records):
    """The id of one request does not stay for the next one of the connection."""
    from aiohttp import web

    async def native(_):
        logging.getLogger("native").warning("native")
        return web.Response()

    served.aiohttp_app.router.add_get("/native", native)
    client = await serve(served)
    await (await client.get("/coroutine")).read()
    await client.get("/native")
    assert records[-1] == ("native", "-")


async def test_the_client_sends_it_to_the_hosts_that_are_named(served, aio, serve):
    """aio.client sends the id to these hosts, from either side, and not where they redirect to."""
    served.config["AIO_REQUEST_ID_HOSTS"] = ["127.0.0.1"]

    @served.get("/received")
    async def received():
        return request.headers["X-Request-ID"]

    @served.get("/away")
    async def away():
        return "", 302, {"Location": f"http://localhost:{client.port}/received"}

    async def ask(url):
        async with aio.client.get(url) as response:
            return await response.text()

    @served.get("/asks")
    async def asks():
        return await ask(request.args["url"])

    @served.get("/asks-in-thread")
    def asks_in_thread():
        return await_(ask(request.args["url"]))

    client = await serve(served)
    for path in ("/asks", "/asks-in-thread"):
        for url, passed_on in (
            (f"http://127.0.0.1:{client.port}/received", True),
            (f"http://localhost:{client.port}/received", False),
            (f"http://127.0.0.1:{client.port}/away", False),
        ):
            response = await client.get(path, params={"url": url}, headers={"X-Request-ID": "mine"})
            assert ((await response.text()) == "mine") is passed_on


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("AIO_REQUEST_ID", True),
        ("AIO_REQUEST_ID", "X-Request-ID"),
        ("AIO_REQUEST_ID_HEADER", "X_Request_ID"),
        ("AIO_REQUEST_ID_HEADER", "X-Request-ID: 1\r\nSet-Cookie"),
        ("AIO_REQUEST_ID_HOSTS", ["https://orders.internal"]),
        ("AIO_REQUEST_ID_HOSTS", None),
    ],
)
async def test_a_value_that_means_nothing_is_refused_at_start(app, aio, serve, key, value):
    """The server does not start, and the error names the key."""
    app.config[key] = value
    with pytest.raises(ValueError, match=key):
        await serve(app)
