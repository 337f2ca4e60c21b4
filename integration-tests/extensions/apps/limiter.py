"""Flask-Limiter: counts kept in Redis, for each client that says who it is."""

import asyncio
import os

from flask import Flask, request
from flask_limiter import Limiter

from flask_aio_ws import websocket, ws

app = Flask(__name__)
limiter = Limiter(
    lambda: request.headers.get("X-Client", ""), app=app, storage_uri=os.environ["REDIS_URL"]
)


@app.get("/synchronous")
@limiter.limit("2/hour")
def synchronous():
    return "ok"


@app.get("/coroutine")
@limiter.limit("2/hour")
async def coroutine():
    await asyncio.sleep(0.01)
    return "ok"


@app.get("/stream")
@limiter.limit("2/hour")
async def stream():
    for _ in range(2):
        yield "ok\n"
        await asyncio.sleep(0.01)


@app.get("/unlimited")
async def unlimited():
    return "ok"


@app.route("/socket")
@limiter.limit("2/hour")
@websocket
async def socket():
    async for message in ws:
        await ws.send_str(message.data)
