"""Flask-Talisman: https for all pages but one, and a content security policy."""

import asyncio

from flask import Flask
from flask_talisman import Talisman

from flask_aio_ws import websocket, ws

app = Flask(__name__)
talisman = Talisman(
    app, content_security_policy={"default-src": "'self'", "connect-src": "'self' wss:"}
)


@app.get("/synchronous")
def synchronous():
    return "ok"


@app.get("/coroutine")
async def coroutine():
    await asyncio.sleep(0.01)
    return "ok"


@app.get("/stream")
async def stream():
    for _ in range(2):
        yield "ok\n"
        await asyncio.sleep(0.01)


@app.get("/embedded")
@talisman(force_https=False, frame_options="ALLOW-FROM", frame_options_allow_from="*")
async def embedded():
    await asyncio.sleep(0.01)
    return "ok"


@app.route("/socket")
@websocket
async def socket():
    async for message in ws:
        await ws.send_str(message.data)


@app.route("/plain-socket")
@talisman(force_https=False)
@websocket
async def plain_socket():
    async for message in ws:
        await ws.send_str(message.data)
