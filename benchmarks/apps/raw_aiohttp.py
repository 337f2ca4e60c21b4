"""aiohttp handlers without Flask: what the server itself costs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import jinja2
from aiohttp import ClientSession, WSMsgType, web

from . import content

_TEMPLATE = jinja2.Environment(
    autoescape=True, loader=jinja2.FileSystemLoader(content.TEMPLATES)
).get_template(content.TEMPLATE)
_CLIENT = web.AppKey("client", ClientSession)
_SOCKETS: set[web.WebSocketResponse] = set()


async def _json(_: web.Request) -> web.Response:
    return web.json_response(content.PAYLOAD)


async def _wait(_: web.Request) -> web.Response:
    await asyncio.sleep(content.WAIT)
    return web.Response(text="done")


async def _upstream(request: web.Request) -> web.Response:
    async with request.app[_CLIENT].get(content.upstream_url()) as response:
        return web.json_response(await response.json())


async def _template(_: web.Request) -> web.Response:
    return web.Response(text=_TEMPLATE.render(content.CONTEXT), content_type="text/html")


async def _form(request: web.Request) -> web.Response:
    form = await request.post()
    return web.json_response({"name": form["name"], "fields": len(form)})


async def _stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(content.CHUNKS):
        await response.write(content.CHUNK)
    await response.write_eof()
    return response


async def _download(_: web.Request) -> web.FileResponse:
    return web.FileResponse(content.file_path())


async def _upload(request: web.Request) -> web.Response:
    size = 0
    while piece := await request.content.read(content.PIECE):
        size += len(piece)
    return web.json_response({"size": size})


async def _echo(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(heartbeat=content.HEARTBEAT, max_msg_size=content.MAX_MESSAGE)
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
    return socket


async def _broadcast(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(heartbeat=content.HEARTBEAT, max_msg_size=content.MAX_MESSAGE)
    await socket.prepare(request)
    _SOCKETS.add(socket)
    try:
        async for message in socket:
            for other in list(_SOCKETS):
                await other.send_str(message.data)
    finally:
        _SOCKETS.discard(socket)
    return socket


async def _client(application: web.Application) -> AsyncIterator[None]:
    async with ClientSession() as session:
        application[_CLIENT] = session
        yield


def make_application() -> web.Application:
    """Return the application."""
    application = web.Application()
    application.cleanup_ctx.append(_client)
    application.router.add_get("/coroutine", _json)
    application.router.add_get("/wait", _wait)
    application.router.add_get("/upstream", _upstream)
    application.router.add_get("/template", _template)
    application.router.add_post("/form", _form)
    application.router.add_get("/stream", _stream)
    application.router.add_get("/download", _download)
    application.router.add_post("/upload", _upload)
    application.router.add_get("/echo", _echo)
    application.router.add_get("/broadcast", _broadcast)
    return application
