"""The Flask application with this project: coroutine views wherever something waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import WSMsgType
from flask import Flask, render_template, request, send_file
from flask.typing import ResponseReturnValue

from flask_aio_core import AioHTTP
from flask_aio_ws import Channel, websocket, ws

from . import content

app = Flask("benchmarks.apps")
aio = AioHTTP(app)
everyone = Channel("everyone")


@app.get("/synchronous")
def synchronous() -> dict[str, Any]:
    return content.PAYLOAD


@app.get("/coroutine")
async def coroutine() -> dict[str, Any]:
    return content.PAYLOAD


@app.get("/wait")
async def wait() -> str:
    await asyncio.sleep(content.WAIT)
    return "done"


@app.get("/upstream")
async def call_upstream() -> ResponseReturnValue:
    async with aio.client.get(content.upstream_url()) as response:
        return await response.json()  # type: ignore[no-any-return]


@app.get("/template")
async def template() -> str:
    return render_template(content.TEMPLATE, **content.CONTEXT)


@app.post("/form")
async def form() -> dict[str, Any]:
    return {"name": request.form["name"], "fields": len(request.form)}


@app.get("/stream")
async def stream() -> AsyncIterator[bytes]:
    for _ in range(content.CHUNKS):
        yield content.CHUNK


@app.get("/download")
async def download() -> ResponseReturnValue:
    return send_file(content.file_path())


@app.post("/upload")
async def upload() -> dict[str, Any]:
    size = 0
    while piece := request.stream.read(content.PIECE):
        size += len(piece)
    return {"size": size}


@app.get("/burn")
def burn() -> dict[str, Any]:
    return {"total": content.burn()}


@app.route("/echo")
@websocket
async def echo() -> None:
    async for message in ws:
        if message.type is WSMsgType.TEXT:
            await ws.send_str(message.data)


@app.route("/broadcast")
@websocket
async def broadcast() -> None:
    async with everyone.joined(ws):
        async for message in ws:
            await everyone.publish(message.data)
