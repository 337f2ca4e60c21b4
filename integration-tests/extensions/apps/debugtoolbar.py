"""Flask-DebugToolbar, which calls views without Flask's ensure_sync."""

import asyncio
import logging

from flask import Flask
from flask_debugtoolbar import DebugToolbarExtension

from flask_aio_ws import websocket, ws

app = Flask(__name__)
app.secret_key = "for tests"
app.config["DEBUG_TB_ENABLED"] = True
app.config["DEBUG_TB_INTERCEPT_REDIRECTS"] = False
DebugToolbarExtension(app)
started = asyncio.Event()
finished = asyncio.Event()
logger = logging.getLogger("notes")
logger.setLevel(logging.INFO)


@app.get("/synchronous/<text>")
def synchronous(text):
    logger.info("note %s", text)
    return f"<html><body>{text}</body></html>"


@app.get("/coroutine/<text>")
async def coroutine(text):
    await asyncio.sleep(0.01)
    logger.info("note %s", text)
    return f"<html><body>{text}</body></html>"


@app.get("/waiting/<text>")
async def waiting(text):
    logger.info("waiting %s", text)
    started.set()
    await finished.wait()
    return f"<html><body>{text}</body></html>"


@app.get("/started")
async def wait_until_started():
    await started.wait()
    return "ok"


@app.get("/finish")
async def finish():
    finished.set()
    return "ok"


@app.get("/stream")
async def stream():
    for _ in range(2):
        yield "milk\n"
        await asyncio.sleep(0.01)


@app.route("/socket")
@websocket
async def socket():
    async for message in ws:
        await ws.send_str(message.data)
