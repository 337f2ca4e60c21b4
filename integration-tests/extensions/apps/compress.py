"""Flask-Compress."""

import asyncio

from flask import Flask
from flask_compress import Compress

from flask_aio_ws import websocket, ws

app = Flask(__name__)
app.config["COMPRESS_MIMETYPES"] = ["text/html", "text/plain"]
app.config["COMPRESS_STREAMS"] = True
Compress(app)


@app.get("/synchronous")
def synchronous():
    return "milk " * 1000


@app.get("/coroutine")
async def coroutine():
    await asyncio.sleep(0.01)
    return "milk " * 1000


@app.get("/small")
async def small():
    return "milk"


@app.get("/stream")
async def stream():
    for _ in range(10):
        yield "milk " * 100
        await asyncio.sleep(0.01)


@app.route("/socket")
@websocket
async def socket():
    async for message in ws:
        await ws.send_str(message.data)
