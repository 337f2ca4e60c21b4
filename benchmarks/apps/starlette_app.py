"""The application rewritten for Starlette."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import jinja2
from aiohttp import ClientSession
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    StreamingResponse,
)
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from . import content

_template = jinja2.Environment(
    autoescape=True, loader=jinja2.FileSystemLoader(content.TEMPLATES)
).get_template(content.TEMPLATE)
_sockets: set[WebSocket] = set()


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    async with ClientSession() as app.state.session:
        yield


def synchronous(_: Request) -> JSONResponse:
    return JSONResponse(content.PAYLOAD)


async def coroutine(_: Request) -> JSONResponse:
    return JSONResponse(content.PAYLOAD)


async def wait(_: Request) -> PlainTextResponse:
    await asyncio.sleep(content.WAIT)
    return PlainTextResponse("done")


async def call_upstream(request: Request) -> JSONResponse:
    async with request.app.state.session.get(content.upstream_url()) as response:
        return JSONResponse(await response.json())


async def template(_: Request) -> HTMLResponse:
    return HTMLResponse(_template.render(content.CONTEXT))


async def form(request: Request) -> JSONResponse:
    fields = await request.form()
    return JSONResponse({"name": fields["name"], "fields": len(fields)})


async def stream(_: Request) -> StreamingResponse:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(content.CHUNKS):
            yield content.CHUNK

    return StreamingResponse(chunks())


async def download(_: Request) -> FileResponse:
    return FileResponse(content.file_path())


async def upload(request: Request) -> JSONResponse:
    size = 0
    async for piece in request.stream():
        size += len(piece)
    return JSONResponse({"size": size})


def burn(_: Request) -> JSONResponse:
    return JSONResponse({"total": content.burn()})


async def echo(socket: WebSocket) -> None:
    await socket.accept()
    async for message in socket.iter_text():
        await socket.send_text(message)


async def broadcast(socket: WebSocket) -> None:
    await socket.accept()
    _sockets.add(socket)
    try:
        async for message in socket.iter_text():
            for other in list(_sockets):
                await other.send_text(message)
    except WebSocketDisconnect:
        pass
    finally:
        _sockets.discard(socket)


app = Starlette(
    lifespan=_lifespan,
    routes=[
        Route("/synchronous", synchronous),
        Route("/coroutine", coroutine),
        Route("/wait", wait),
        Route("/upstream", call_upstream),
        Route("/template", template),
        Route("/form", form, methods=["POST"]),
        Route("/stream", stream),
        Route("/download", download),
        Route("/upload", upload, methods=["POST"]),
        Route("/burn", burn),
        WebSocketRoute("/echo", echo),
        WebSocketRoute("/broadcast", broadcast),
    ],
)
