"""A gunicorn worker for Flask apps on asyncio."""

from __future__ import annotations

from .worker import AioUVLoopWorker as AioUVLoopWorker
from .worker import AioWorker as AioWorker

__all__ = ["AioUVLoopWorker", "AioWorker"]
