"""Around each request: gunicorn's ``pre_request`` and ``post_request``, and ``max_requests``."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from aiohttp import web
from gunicorn.config import Config, PostRequest, PreRequest

from flask_aio_core.serving import Handler

from .request import Request, Response, drop_environ, kept_environ

if TYPE_CHECKING:
    from .worker import AioWorker


class RequestHooks:
    """Wraps the handler of a worker's requests in what its settings ask for, and only in that."""

    def __init__(self, worker: AioWorker, cfg: Config) -> None:
        self._worker = worker
        self._cfg = cfg
        # The default of pre_request does nothing but write to the log at this level.
        debugging = worker.log.error_log.isEnabledFor(logging.DEBUG)
        self.has_pre_request = debugging or cfg.pre_request is not PreRequest.default
        #: Whether post_request is set, which is given the environ.
        self.has_post_request = not _is_default_post_request(cfg)

    def wrap(self, handler: Handler) -> Handler:
        """Return the handler that is called in its place."""
        if self.has_pre_request or self.has_post_request:
            handler = self._with_hooks(handler)
        if self._worker.max_requests < sys.maxsize:
            handler = self._counted(handler)
        return handler

    def _counted(self, handler: Handler) -> Handler:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            self._worker.count_request()
            return await handler(request)

        return handle

    def _with_hooks(self, handler: Handler) -> Handler:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            seen = Request(request)
            self._cfg.pre_request(self._worker, seen)
            response: web.StreamResponse | None = None
            try:
                response = await handler(request)
                return response
            except web.HTTPException as answer:
                response = answer
                raise
            finally:
                if self.has_post_request:
                    self._call_post_request(request, seen, response)

        return handle

    def _call_post_request(
        self, request: web.BaseRequest, seen: Request, response: web.StreamResponse | None
    ) -> None:
        answer = Response(
            web.Response(status=500) if response is None else response, request.method
        )
        try:
            self._cfg.post_request(self._worker, seen, kept_environ(request), answer)
        except Exception:
            self._worker.log.exception("Exception in post_request hook")
        if not self._worker.logs_access:
            drop_environ(request)


def _is_default_post_request(cfg: Config) -> bool:
    # gunicorn's validator wraps a hook with fewer than four parameters; the default has four.
    return bool(cfg.post_request is PostRequest.default)
