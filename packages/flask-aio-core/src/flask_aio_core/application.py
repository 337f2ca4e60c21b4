"""The aiohttp application that serves a Flask app: every path, every method."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import unquote_to_bytes

from aiohttp import web
from aiohttp.web_urldispatcher import UrlMappingMatchInfo
from flask import Flask
from yarl import URL

from .gevent import refuse_gevent
from .handler import FlaskHandler
from .runtime import Runtime
from .state import add_serving, get_state, remove_serving


def build_application(app: Flask) -> web.Application:
    """Return a new aiohttp application for a Flask app that has the extension.

    Like every aiohttp application it can be served once. Routes, middlewares and start hooks of
    aiohttp may be added to it; a route takes precedence over the Flask app.
    """
    handler = FlaskHandler(app)
    # The Flask app sees Content-Encoding and Content-Length: they must describe what it can read.
    application = web.Application(handler_args={"auto_decompress": False})

    async def serve(_: web.Application) -> AsyncIterator[None]:
        refuse_gevent()
        handler.runtime = runtime = Runtime(app, get_state(app).lifecycle)
        add_serving(runtime)
        try:
            await runtime.start()
            yield
        finally:
            try:
                await runtime.stop()
            finally:
                remove_serving(runtime)
                if getattr(app, "aiohttp_app", None) is application:
                    app.aiohttp_app = build_application(app)  # type: ignore[attr-defined]

    async def begin_to_stop(_: web.Application) -> None:
        handler.runtime.stopping = True
        for hook in get_state(app).hooks.on_shutdown:
            await hook()
        for exchange in list(handler.runtime.event_streams):
            exchange.dismiss()

    application.cleanup_ctx.append(serve)
    application.on_shutdown.append(begin_to_stop)
    application.router.register_resource(FlaskResource(handler))
    return application


def hurry(app: Flask) -> None:
    """Have the server of an app, if one runs, not wait for background tasks when it stops."""
    runtime = get_state(app).serving_runtime()
    if runtime is not None:
        runtime.hurry()


def unused_application(app: Flask) -> web.Application:
    """Return ``app.aiohttp_app``, or a new application if that one has been served already."""
    application: web.Application | None = getattr(app, "aiohttp_app", None)
    if application is None or application.frozen:
        application = build_application(app)
    return application


class FlaskResource(web.AbstractResource):
    """An aiohttp resource that matches everything below the path it is mounted at.

    aiohttp's own routes with a variable path do not match ``OPTIONS *``, and do not tell the
    handler the prefix of a sub-application.
    """

    def __init__(self, handler: FlaskHandler) -> None:
        super().__init__()
        self._handler = handler
        self._prefix = ""
        self._path = ""
        self._route = web.ResourceRoute("*", self._handle, self, expect_handler=_continue_later)

    @property
    def canonical(self) -> str:
        return self._prefix or "/"

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        return await self._handler.handle(request, prefix=self._path)

    async def resolve(self, request: web.Request) -> tuple[UrlMappingMatchInfo | None, set[str]]:
        return UrlMappingMatchInfo({}, self._route), set()

    def add_prefix(self, prefix: str) -> None:
        self._prefix = prefix + self._prefix
        # As in PATH_INFO, whose prefix it is taken from.
        self._path = unquote_to_bytes(self._prefix).decode("latin-1")

    def raw_match(self, path: str) -> bool:
        return False

    def url_for(self, **_: str) -> URL:
        return URL.build(path=self.canonical, encoded=True)

    def get_info(self) -> Any:
        return {"prefix": self.canonical}

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[web.AbstractRoute]:
        yield self._route


async def _continue_later(request: web.BaseRequest) -> None:
    """Leave ``Expect: 100-continue`` to the body: the app may answer without reading it."""
    expect = request.headers.get("Expect", "")
    if expect.lower() != "100-continue":
        raise web.HTTPExpectationFailed(text=f"417: The expectation {expect!r} is unknown.\n")
