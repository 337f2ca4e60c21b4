"""prometheus-flask-exporter; several processes of gunicorn share their figures."""

import asyncio
import os

from flask import Flask
from prometheus_flask_exporter import PrometheusMetrics
from prometheus_flask_exporter.multiprocess import GunicornInternalPrometheusMetrics

from flask_aio_ws import websocket, ws

app = Flask(__name__)
shared = "PROMETHEUS_MULTIPROC_DIR" in os.environ
metrics = (GunicornInternalPrometheusMetrics if shared else PrometheusMetrics)(app)


@app.get("/synchronous")
def synchronous():
    return "ok"


@app.get("/coroutine")
@metrics.counter("notes", "Notes that were read", labels={"status": lambda r: r.status_code})
async def coroutine():
    await asyncio.sleep(0.01)
    return "ok", 202


@app.get("/in-progress")
@metrics.gauge("in_progress", "Requests in progress")
async def in_progress():
    await asyncio.sleep(0.01)
    return "ok"


@app.get("/stream")
async def stream():
    for _ in range(2):
        yield "ok\n"
        await asyncio.sleep(0.01)


@app.get("/error")
async def error():
    await asyncio.sleep(0.01)
    raise ValueError


@app.route("/socket")
@websocket
async def socket():
    async for message in ws:
        await ws.send_str(message.data)


@app.get("/pid")
@metrics.do_not_track()
def pid():
    return str(os.getpid())
