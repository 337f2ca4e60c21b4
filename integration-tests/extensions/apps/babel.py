"""Flask-Babel: dates in the language of each request."""

import asyncio
from datetime import date

from flask import Flask, request
from flask_babel import Babel, force_locale, format_date

from flask_aio_ws import websocket, ws

app = Flask(__name__)
babel = Babel(app, locale_selector=lambda: request.args.get("lang", "en"))
DAY = date(2026, 5, 1)


@app.get("/synchronous")
def synchronous():
    return format_date(DAY, "MMMM")


@app.get("/coroutine")
async def coroutine():
    await asyncio.sleep(0.01)
    first = format_date(DAY, "MMMM")
    await asyncio.sleep(0.01)
    return f"{first} {format_date(DAY, 'MMMM')}"


@app.get("/forced")
async def forced():
    with force_locale("fr"):
        await asyncio.sleep(0.01)
        inside = format_date(DAY, "MMMM")
    return f"{inside} {format_date(DAY, 'MMMM')}"


@app.get("/stream")
async def stream():
    for _ in range(2):
        yield f"{format_date(DAY, 'MMMM')}\n"
        await asyncio.sleep(0.01)


@app.route("/socket")
@websocket
async def socket():
    async for message in ws:
        await ws.send_str(f"{message.data} {format_date(DAY, 'MMMM')}")
