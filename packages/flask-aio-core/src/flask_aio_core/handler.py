"""Answers an aiohttp request with a Flask app: the way of one request through this package."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

from aiohttp import web
from flask import Flask
from werkzeug.exceptions import HTTPException, InternalServerError, ServiceUnavailable

from .body import read_small_body, streamed_body
from .bridge import run_on_loop
from .connection import ConnectionWatch
from .environ import build_environ
from .exchange import Exchange
from .plugins import SIDE_KEY
from .runtime import Runtime
from .state import get_state
from .threads import WorkerCall

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

logger = logging.getLogger("flask_aio_core")


class FlaskHandler:
    """The aiohttp handler of one Flask app, mounted at a path.

    :attr:`runtime` is set while the server runs.
    """

    runtime: Runtime

    def __init__(self, app: Flask) -> None:
        self._app = app
        state = get_state(app)
        self._plans = state.plans
        self._hooks = state.hooks
        #: What is called with each environ: the app, or middleware around it.
        self.wsgi_app: WSGIApplication = app

    async def handle(
        self, request: web.BaseRequest, *, prefix: str = "", body_decompressed: bool = False
    ) -> web.StreamResponse:
        """Answer one request.

        :param prefix: the path that the app is mounted at, percent-decoded.
        :param body_decompressed: whether the server has undone the body's content coding.
        """
        app = self._app
        config = app.config
        environ = build_environ(request, script_name=prefix, body_decompressed=body_decompressed)
        for hook in self._hooks.on_request:
            hook(request, environ)
        plan = self._plans.for_environ(app, environ)
        try:
            body = await read_small_body(request, environ, config["AIO_MAX_BUFFERED_BODY"])
        except HTTPException as error:
            return _plain_response(error)
        environ["wsgi.input"] = streamed_body(request) if body is None else body
        cancel, hooks_in_thread = plan.options
        if cancel is None:
            cancel = config["AIO_CANCEL_ON_DISCONNECT"]
        if hooks_in_thread is None:
            hooks_in_thread = config["AIO_HOOKS_IN_THREAD"]
        if plan.is_coroutine and not hooks_in_thread:
            return await self._run_on_loop(request, environ, cancel)
        return await self._run_in_thread(request, environ, cancel)

    async def _run_on_loop(
        self, request: web.BaseRequest, environ: dict[str, Any], cancel_on_disconnect: bool
    ) -> web.StreamResponse:
        runtime = self.runtime
        task = asyncio.current_task(runtime.loop)
        assert task is not None
        environ[SIDE_KEY] = "loop"
        exchange = Exchange(
            runtime,
            request,
            environ,
            caller=_TaskCaller(task),
            cancel_on_disconnect=cancel_on_disconnect,
        )
        watch = ConnectionWatch(request, exchange.on_connection_end)
        runtime.requests_on_loop += 1
        try:
            await run_on_loop(runtime, partial(exchange.run, self.wsgi_app), copy_context())
        except asyncio.CancelledError as error:
            if exchange.was_stopped:
                task.uncancel()
            elif task.cancelling():
                raise
            else:  # The app awaited something that was cancelled.
                return _failed(request, exchange, error)
        except (Exception, SystemExit) as error:
            return _failed(request, exchange, error)
        finally:
            runtime.requests_on_loop -= 1
            watch.stop()
        return _response_of(exchange)

    async def _run_in_thread(
        self, request: web.BaseRequest, environ: dict[str, Any], cancel_on_disconnect: bool
    ) -> web.StreamResponse:
        runtime = self.runtime
        environ[SIDE_KEY] = "thread"
        call: WorkerCall[None] = WorkerCall(
            runtime, lambda: exchange.run(self.wsgi_app), copy_context()
        )
        exchange = Exchange(
            runtime,
            request,
            environ,
            caller=call,
            cancel_on_disconnect=cancel_on_disconnect,
        )
        try:
            runtime.threads.submit(call)
        except ServiceUnavailable as error:
            return _plain_response(error)
        watch = ConnectionWatch(request, exchange.on_connection_end)
        runtime.requests_in_threads += 1
        try:
            await call.wait()
            if exchange.whole_body is not None:
                # The thread goes on to close the response; it did not wait for this.
                await exchange.send_whole_body()
                await call.wait()
            call.result()
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if call.given_up or (task is not None and task.cancelling()):
                raise
            if not exchange.was_stopped:
                return _failed(request, exchange, error)
        except (Exception, SystemExit) as error:
            return _failed(request, exchange, error)
        finally:
            runtime.requests_in_threads -= 1
            watch.stop()
        return _response_of(exchange)


class _TaskCaller:
    """An exchange that runs in the task itself, on the event loop."""

    hands_over = False

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.cancel = self.give_up = task.cancel

    def forget_cancel(self) -> None:
        pass  # Every wait of the exchange was the task's own, and has been cancelled by now.

    def signal(self) -> None:
        raise NotImplementedError


def _failed(
    request: web.BaseRequest, exchange: Exchange, error: BaseException
) -> web.StreamResponse:
    """Log an error that the app itself has not handled; answer 500 if nothing was sent yet."""
    transmission = exchange.transmission
    if exchange.was_stopped and isinstance(error, ConnectionError):
        return _response_of(exchange)
    logger.error("Error on %s %s", request.method, request.path, exc_info=error)
    if exchange.taken_over is not None:
        return exchange.taken_over
    if transmission.response is None:
        return _plain_response(InternalServerError())
    if not transmission.complete:
        # The client must not take what it got for the whole response.
        request.protocol.force_close()
    return transmission.response


def _plain_response(error: HTTPException) -> web.Response:
    headers = {}
    retry_after = getattr(error, "retry_after", None)
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    response = web.Response(
        status=error.code or 500, text=f"{error.code} {error.name}\n", headers=headers
    )
    response.force_close()
    return response


def _response_of(exchange: Exchange) -> web.StreamResponse:
    """Return the response that was sent, or one that says why there is none."""
    if exchange.taken_over is not None:
        return exchange.taken_over
    if exchange.transmission.response is not None:
        return exchange.transmission.response
    if exchange.transmission.disconnected:
        return web.Response(status=499)  # For the access log only, as nginx writes it.
    return _plain_response(ServiceUnavailable())
