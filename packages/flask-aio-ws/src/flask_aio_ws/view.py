"""``@websocket``: a Flask view that talks over a WebSocket."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Collection
from functools import wraps
from typing import Any, Final, ParamSpec, overload

from aiohttp import ClientConnectionResetError, WSCloseCode, WSMessageTypeError, web
from flask import Response, current_app, request, session
from werkzeug.exceptions import (
    BadRequest,
    ClientDisconnected,
    Forbidden,
    HTTPException,
    ServiceUnavailable,
    abort,
)

from flask_aio_core import async_, await_
from flask_aio_core.plugins import is_stopping

from .config import Options, configured
from .connection import STOPPING, WEBSOCKET_KEY, WebSocket, open_sockets
from .exceptions import ConnectionClosed
from .origin import origin_is_allowed
from .synchronous import SyncWebSocket

P = ParamSpec("P")

# How a view notices that its client has gone: the last by receive_str and its siblings.
_GONE: Final = (ClientConnectionResetError, ConnectionClosed, WSMessageTypeError)


@overload
def websocket(function: Callable[P, Any], /) -> Callable[P, Any]: ...


@overload
def websocket(
    *,
    failure_status_code: int = ...,
    protocols: Collection[str] = ...,
    heartbeat: float | None = ...,
    max_message_size: int = ...,
    compress: bool = ...,
    receive_timeout: float | None = ...,
    origins: Collection[str] | str = ...,
) -> Callable[[Callable[P, Any]], Callable[P, Any]]: ...


def websocket(
    function: Callable[..., Any] | None = None,
    /,
    *,
    failure_status_code: Any = ...,
    protocols: Any = ...,
    heartbeat: Any = ...,
    max_message_size: Any = ...,
    compress: Any = ...,
    receive_timeout: Any = ...,
    origins: Any = ...,
) -> Any:
    """Make a view a WebSocket view; the handshake is answered when the view is reached.

    Whatever answers the request before that, a hook or another decorator, answers it as plain HTTP.
    When the view returns, the socket is closed with 1000; an exception closes it with 1011, an HTTP
    exception with 4000 plus its status, or 1011 from 500 on.

    The default of every parameter is the ``AIO_WS_*`` key of the same name.

    :param failure_status_code: the answer to a request that is no handshake.
    :param protocols: subprotocols that the server speaks; the client's first choice among them is
        agreed on.
    :param heartbeat: seconds between pings; a client that does not answer is given up.
    :param max_message_size: in bytes; a longer message closes the socket with 1009.
    :param compress: whether to use permessage-deflate (RFC 7692).
    :param receive_timeout: seconds after which ``receive`` raises :exc:`TimeoutError`.
    :param origins: origins of pages that may connect besides our own; ``"*"`` allows all.
    """
    options = Options(
        protocols=protocols,
        heartbeat=heartbeat,
        max_message_size=max_message_size,
        compress=compress,
        receive_timeout=receive_timeout,
        failure_status=failure_status_code,
        origins=origins,
    )

    def decorate(view: Callable[..., Any]) -> Callable[..., Any]:
        is_coroutine = inspect.iscoroutinefunction(view) or inspect.isgeneratorfunction(view)
        make = _coroutine_view if is_coroutine else _synchronous_view
        return make(view, options)

    return decorate if function is None else decorate(function)


def _coroutine_view(view: Callable[..., Any], options: Options) -> Callable[..., Any]:
    coroutine_view = async_(view)

    @wraps(view)
    async def wrapper(*args: Any, **kwargs: Any) -> Response:
        socket = await _accept(options)
        error: BaseException | None = None
        try:
            await coroutine_view(*args, **kwargs)
        except BaseException as raised:
            error = raised
        return await _end(socket, error)

    return wrapper


def _synchronous_view(view: Callable[..., Any], options: Options) -> Callable[..., Any]:
    @wraps(view)
    def wrapper(*args: Any, **kwargs: Any) -> Response:
        with _threads:
            socket = await_(_accept(options))
            request.environ[WEBSOCKET_KEY] = SyncWebSocket(socket)
            error: BaseException | None = None
            try:
                view(*args, **kwargs)
            except BaseException as raised:
                error = raised
            return await_(_end(socket, error))

    return wrapper


async def _accept(options: Options) -> WebSocket:
    """Answer the handshake of the current request, or refuse it by an HTTP exception."""
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    options = options.resolve(app)
    injected = request.environ.get(WEBSOCKET_KEY)
    if injected is None:
        raise _refusal(options.failure_status)
    if not origin_is_allowed(request.headers.get("Origin"), request.host, options.origins):
        raise Forbidden("A page of this origin may not open a WebSocket here.")
    socket = WebSocket(app, request.environ, options)
    request.environ[WEBSOCKET_KEY] = socket
    _send_session(app, socket)
    try:
        await socket.open()
    except web.HTTPException as error:
        raise BadRequest(error.text) from None
    except ConnectionError as error:
        raise ClientDisconnected from error
    if is_stopping():  # The others were closed when that began.
        await socket.end(WSCloseCode.GOING_AWAY, STOPPING)
    return socket


async def _end(socket: WebSocket, error: BaseException | None) -> Response:
    """Close the socket as the end of the view asks for; raise the view's error for Flask."""
    try:
        if isinstance(error, _GONE) and not socket.is_connected:
            error = None  # The client went away, and the view has noticed. That is no error.
        code, reason = _close_code(error)
        await socket.end(code, reason.encode()[:123])
    finally:
        open_sockets(socket.app).discard(socket)
    try:
        if error is not None:
            raise error
    finally:
        del error
    return Response(status=101)  # For after_request functions; the handshake was the response.


def _close_code(error: BaseException | None) -> tuple[int, str]:
    if error is None:
        return WSCloseCode.OK, ""
    if isinstance(error, HTTPException) and error.code is not None and error.code < 500:
        return 4000 + error.code, error.name
    if isinstance(error, Exception):
        return WSCloseCode.INTERNAL_ERROR, ""
    return WSCloseCode.GOING_AWAY, ""  # Cancelled: the server stops.


def _refusal(status: int) -> HTTPException:
    """Return the answer to a request that is no handshake."""
    text = "This address speaks WebSocket only."
    if status == 426:
        # The one status that has to say to what (RFC 9110, section 15.5.22).
        return HTTPException(text, Response(text, 426, {"Upgrade": "websocket"}))
    try:
        abort(status, description=text)
    except HTTPException as error:
        return error
    except LookupError:
        return HTTPException(text, Response(text, status))


def _send_session(app: Any, socket: WebSocket) -> None:
    """Send the cookie of a session that was changed before the handshake; later is too late."""
    interface = app.session_interface
    if not interface.is_null_session(session):
        response = Response()
        interface.save_session(app, session, response)
        for value in response.headers.getlist("Set-Cookie"):
            socket.headers.add("Set-Cookie", value)


class _ThreadLimit:
    """Keeps synchronous WebSocket views from taking all worker threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0

    def __enter__(self) -> None:
        limit = configured(current_app, "AIO_WS_MAX_SYNCHRONOUS")
        with self._lock:
            if self._count >= limit:
                raise ServiceUnavailable(
                    f"There are {limit} WebSockets of synchronous views already.",
                    retry_after=current_app.config["AIO_RETRY_AFTER"],
                )
            self._count += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._count -= 1


_threads = _ThreadLimit()
