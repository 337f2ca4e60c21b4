"""The application written for Quart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import ClientSession
from quart import Quart, Response, render_template, request, send_file, websocket

from . import content

app = Quart("benchmarks.apps")
app.config["MAX_CONTENT_LENGTH"] = None
app.config["BODY_TIMEOUT"] = None
app.config["RESPONSE_TIMEOUT"] = None
_sockets: set[Any] = set()
_session: ClientSession


@app.before_serving
async def open_session() -> None:
    global _session
    _session = ClientSession()


@app.after_serving
async def close_session() -> None:
    await _session.close()


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
async def call_upstream() -> Any:
    async with _session.get(content.upstream_url()) as response:
        return await response.json()


@app.get("/template")
async def template() -> str:
    return await render_template(content.TEMPLATE, **content.CONTEXT)


@app.post("/form")
async def form() -> dict[str, Any]:
    fields = await request.form
    return {"name": fields["name"], "fields": len(fields)}


@app.get("/stream")
async def stream() -> Response:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(content.CHUNKS):
            yield content.CHUNK

    return Response(chunks())


@app.get("/download")
async def download() -> Response:
    return await send_file(content.file_path())


@app.post("/upload")
async def upload() -> dict[str, Any]:
    size = 0
    async for piece in request.body:
        size += len(piece)
    return {"size": size}


@app.get("/burn")
def burn() -> dict[str, Any]:
    return {"total": content.burn()}


@app.websocket("/echo")
async def echo() -> None:
    while True:
        await websocket.send(await websocket.receive())


@app.websocket("/broadcast")
async def broadcast() -> None:
    socket = websocket._get_current_object()  # type: ignore[attr-defined]
    _sockets.add(socket)
    try:
        while True:
            message = await websocket.receive()
            for other in list(_sockets):
                await other.send(message)
    finally:
        _sockets.discard(socket)
