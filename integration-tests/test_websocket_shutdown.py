"""What happens to open WebSockets when the process that serves them is told to stop."""

from __future__ import annotations

import asyncio
import signal

import aiohttp
import pytest

APP = """
import asyncio
from flask import Flask
from flask_aio_core import AioHTTP
from flask_aio_ws import websocket, ws

flask_app = Flask(__name__)
flask_app.config["AIO_WS_CLOSE_TIMEOUT"] = 2
aio = AioHTTP(flask_app)
app = flask_app.aiohttp_app


@flask_app.teardown_request
def teardown(_):
    print("teardown", flush=True)


@flask_app.route("/coroutine")
@websocket
async def coroutine():
    await ws.send_str("open")
    async for _ in ws:
        pass
    await asyncio.sleep(0.1)
    print("view has ended", flush=True)


@flask_app.route("/synchronous")
@websocket
def synchronous():
    ws.send("open")
    for _ in ws:
        pass
    print("view has ended", flush=True)


if __name__ == "__main__":
    aio.run(port=0)
"""

GUNICORN = ("-m", "gunicorn", "-b", "127.0.0.1:0", "--log-file", "-", "--no-control-socket")
COMMANDS = {
    "aio.run": (),
    "aiohttp's worker": (*GUNICORN, "app:app", "-k", "aiohttp.worker.GunicornWebWorker"),
    "AioWorker": (*GUNICORN, "app:flask_app", "-k", "flask_aio_gunicorn.AioWorker"),
    "AioUVLoopWorker": (*GUNICORN, "app:flask_app", "-k", "flask_aio_gunicorn.AioUVLoopWorker"),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("path", ["/coroutine", "/synchronous"])
async def test_sigterm_closes_with_1001_and_waits_for_the_views(start, command, path):
    """The client is told that the server goes away; the view and its teardown run to their ends."""
    server = start(*command, app=APP, warnings="default")
    async with aiohttp.ClientSession() as session:
        socket = await session.ws_connect(server.url + path)
        assert await socket.receive_str() == "open"

        server.process.send_signal(signal.SIGTERM)
        closed = await socket.receive()

        assert (closed.type, closed.data) == (aiohttp.WSMsgType.CLOSE, 1001)
        await socket.close()
    assert await asyncio.to_thread(server.process.wait) == 0
    server.wait_for("view has ended")
    server.wait_for("teardown")
