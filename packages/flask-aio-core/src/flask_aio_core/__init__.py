"""Flask on asyncio: an ordinary Flask app, served by aiohttp."""

from __future__ import annotations

from .decorators import async_ as async_
from .exceptions import AioError as AioError
from .exceptions import CannotSuspend as CannotSuspend
from .exceptions import NotInitialized as NotInitialized
from .exceptions import NotServing as NotServing
from .exceptions import NoWebSocket as NoWebSocket
from .exceptions import PatchedByGevent as PatchedByGevent
from .extension import AioHTTP as AioHTTP
from .gauges import Gauges as Gauges
from .request_id import RequestIDFilter as RequestIDFilter
from .waiting import await_ as await_
from .waiting import in_thread as in_thread

__all__ = [
    "AioError",
    "AioHTTP",
    "CannotSuspend",
    "Gauges",
    "NoWebSocket",
    "NotInitialized",
    "NotServing",
    "PatchedByGevent",
    "RequestIDFilter",
    "async_",
    "await_",
    "in_thread",
]
