"""The Sentry SDK: errors and transactions, with a tag that each request sets."""

import asyncio
import os

import sentry_sdk
from flask import Flask

from flask_aio_ws import websocket, ws

sentry_sdk.init(dsn=os.environ["SENTRY_DSN"], traces_sample_rate=1.0)
app = Flask(__name__)


@app.get("/synchronous/<name>")
def synchronous(name):
    sentry_sdk.set_tag("name", name)
    raise ValueError(name)


@app.get("/coroutine/<name>")
async def coroutine(name):
    sentry_sdk.set_tag("name", name)
    await asyncio.sleep(0.05)
    raise ValueError(name)


@app.get("/message/<name>")
async def message(name):
    sentry_sdk.set_tag("name", name)
    await asyncio.sleep(0.05)
    sentry_sdk.capture_message(name)
    return "ok"


@app.get("/untagged/<name>")
async def untagged(name):
    sentry_sdk.capture_message(name)
    return "ok"


@app.get("/stream/<name>")
async def stream(name):
    sentry_sdk.set_tag("name", name)
    yield "first\n"
    await asyncio.sleep(0.05)
    sentry_sdk.capture_message(name)
    yield "second\n"


@app.route("/socket/<name>")
@websocket
async def socket(name):
    sentry_sdk.set_tag("name", name)
    async for message in ws:
        await ws.send_str(message.data)
        raise ValueError(name)
