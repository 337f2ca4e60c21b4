"""Flask-Session: the sessions are kept in Redis."""

import asyncio
import os

import redis
from flask import Flask, request, session
from flask_session import Session

from flask_aio_ws import websocket, ws

app = Flask(__name__)
app.config.from_prefixed_env()
app.config["SESSION_TYPE"] = "redis"
app.config["SESSION_REDIS"] = redis.from_url(os.environ["REDIS_URL"])
Session(app)


@app.post("/set/<value>")
def synchronous(value):
    before = session.get("value")
    session["value"] = value
    return {"before": before}


@app.post("/set-coroutine/<value>")
async def coroutine(value):
    before = session.get("value")
    await asyncio.sleep(0.01)
    session["value"] = value
    return {"before": before}


@app.get("/stream")
async def stream():
    for _ in range(2):
        yield f"{session['value']}\n"
        await asyncio.sleep(0.01)


@app.before_request
def count_handshakes():
    if request.path == "/socket":
        session["sockets"] = session.get("sockets", 0) + 1


@app.get("/sockets")
async def sockets():
    return str(session.get("sockets", 0))


@app.route("/socket")
@websocket
async def socket():
    async for message in ws:
        await ws.send_str(f"{session.get('value')}: {message.data}")
