"""Flask-CORS: by the extension for some paths, by the decorator for others."""

import asyncio

from flask import Flask, abort
from flask_cors import CORS, cross_origin

from flask_aio_ws import websocket, ws

app = Flask(__name__)
CORS(app, resources={"/api/*": {"origins": "https://page.example"}})


@app.get("/api/synchronous")
@app.get("/plain/synchronous", endpoint="plain_synchronous")
def synchronous():
    return "ok"


@app.get("/api/coroutine")
async def coroutine():
    await asyncio.sleep(0.01)
    return "ok"


@app.get("/api/stream")
async def stream():
    for _ in range(2):
        yield "ok"
        await asyncio.sleep(0.01)


@app.get("/api/forbidden")
async def forbidden():
    await asyncio.sleep(0.01)
    abort(403)


@app.route("/decorated/synchronous", methods=["GET", "OPTIONS"])
@cross_origin(origins="https://page.example")
def decorated_synchronous():
    return "ok"


@app.route("/decorated/coroutine", methods=["GET", "OPTIONS"])
@cross_origin(origins="https://page.example")
async def decorated_coroutine():
    await asyncio.sleep(0.01)
    return "ok", 201


@app.route("/decorated/stream", methods=["GET", "OPTIONS"])
@cross_origin(origins="https://page.example")
async def decorated_stream():
    for _ in range(2):
        yield "ok"
        await asyncio.sleep(0.01)


@app.route("/api/socket")
@websocket
async def socket():
    async for message in ws:
        await ws.send_str(message.data)
