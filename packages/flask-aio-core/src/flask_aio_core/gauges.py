"""What a monitor can read of a running server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask


@dataclass(frozen=True, kw_only=True, slots=True)
class Gauges:
    """What the server of one app is doing in this process, at one moment."""

    #: Requests that are being answered on the event loop.
    requests_on_loop: int = 0
    #: Requests that are being answered in worker threads, those that wait for one included.
    requests_in_threads: int = 0
    #: Worker threads that run something.
    threads_busy: int = 0
    #: How many worker threads there can be: ``AIO_WORKER_THREADS``.
    threads_limit: int = 0
    #: Calls that wait for a worker thread.
    calls_queued: int = 0
    #: Responses that are being sent in parts: generators, event streams, files.
    streams: int = 0
    #: WebSockets that are open.
    websockets: int = 0
    #: Tasks of ``aio.spawn`` that have not ended.
    background_tasks: int = 0
    #: The most that the event loop was late in the last half to whole minute, in seconds.
    loop_lag: float = 0.0
    #: How often the loop was late by ``AIO_SLOW_CALLBACK`` or more; it only grows.
    loop_blocked: int = 0


def read_gauges(app: Flask) -> Gauges:
    """Return what the server of an app is doing; all is 0 while there is none."""
    from .state import get_state

    state = get_state(app)
    runtime = state.serving_runtime()
    if runtime is None:
        return Gauges(threads_limit=app.config["AIO_WORKER_THREADS"])
    runtime.lag.want()
    threads = runtime.threads
    return Gauges(
        requests_on_loop=runtime.requests_on_loop,
        requests_in_threads=runtime.requests_in_threads,
        threads_busy=threads.running,
        threads_limit=threads.limit,
        calls_queued=threads.queued,
        streams=len(runtime.streams),
        websockets=sum(count() for count in state.hooks.on_count_sockets),
        background_tasks=runtime.background_tasks,
        loop_lag=runtime.lag.greatest,
        loop_blocked=runtime.lag.blocked,
    )
