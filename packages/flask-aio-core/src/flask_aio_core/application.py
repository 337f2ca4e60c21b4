"""The aiohttp application that serves a Flask app: every path, every method."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import unquote_to_bytes

from aiohttp import hdrs, web
from aiohttp.web_urldispatcher import UrlMappingMatchInfo
from flask import Flask
from yarl import URL

from .gevent import refuse_gevent
from .handler import FlaskHandler, Handler
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
        state = get_state(app)
        for check in state.hooks.on_check:
            check()
        handler.runtime = runtime = Runtime(app, state.lifecycle)
        add_serving(runtime)
        ids = runtime.request_ids
        if ids is not None:
            # Without it, a request takes no step that it would not take if there were no ids.
            handler.handle = ids.around(handler.handle)  # type: ignore[method-assign, assignment]
            handler.wsgi_app = ids.wrap(app)
            state.hooks.on_request.insert(0, ids.add_to_environ)
        try:
            await runtime.start()
            yield
        finally:
            try:
                await runtime.stop()
            finally:
                if ids is not None:
                    state.hooks.on_request.remove(ids.add_to_environ)
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


def direct_handler(application: web.Application, handler: Handler) -> Handler:
    """Return a handler that leaves aiohttp's router out, if it leads to nothing but the app.

    :param handler: the handler of the application, returned if it has other routes or middlewares.
    """
    resources = list(application.router.resources())
    if application.middlewares or len(resources) != 1:
        return handler
    (resource,) = resources
    if type(resource) is not FlaskResource:
        return handler
    answer = resource.handler.handle
    # What aiohttp's own handler finds out anew for each request.
    match_info = UrlMappingMatchInfo({}, next(iter(resource)))
    match_info.add_app(application)
    match_info.freeze()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        # aiohttp has no public way to set it; request.app and the signals need it.
        request._match_info = match_info  # type: ignore[attr-defined]
        if hdrs.EXPECT in request.headers:
            await _continue_later(request)
        return await answer(request)

    return handle


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
        self.handler = handler
        self._prefix = ""
        self._path = ""
        self._route = web.ResourceRoute("*", self.answer, self, expect_handler=_continue_later)

    @property
    def canonical(self) -> str:
        return self._prefix or "/"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a request by the Flask app."""
        # Our own application tells its server not to; one that it is mounted in does not.
        decompressed = len(request.match_info.apps) > 1
        return await self.handler.handle(request, prefix=self._path, body_decompressed=decompressed)

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
