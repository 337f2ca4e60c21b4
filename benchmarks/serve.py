"""Serves the contenders that have no command of their own: ``python -m benchmarks.serve``."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable

from aiohttp import web

LISTEN_QUEUE = 1024


async def _slow(_: web.Request) -> web.Response:
    """Answer what the upstream answers: late."""
    await asyncio.sleep(0.05)
    return web.json_response({"answer": 42})


def _upstream() -> web.Application:
    application = web.Application()
    application.router.add_get("/", _slow)
    return application


def _raw() -> web.Application:
    from .apps import raw_aiohttp

    return raw_aiohttp.make_application()


def _floor() -> web.Application:
    from .apps import floor

    return floor.make_application()


APPLICATIONS: dict[str, Callable[[], web.Application]] = {
    "raw": _raw,
    "floor": _floor,
    "upstream": _upstream,
}


def loop_factory(use_uvloop: bool) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes the event loop."""
    if not use_uvloop:
        return asyncio.new_event_loop
    import uvloop

    return uvloop.new_event_loop


async def _serve(application: web.Application, port: int) -> None:
    runner = web.AppRunner(application, access_log=None, handler_cancellation=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=LISTEN_QUEUE).start()
    await asyncio.Event().wait()


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=[*APPLICATIONS, "flask-aio"])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--uvloop", action="store_true")
    options = parser.parse_args()
    if options.what == "flask-aio":
        from .apps.flask_aio import aio

        aio.run(port=options.port, uvloop=options.uvloop, access_log=False, load_dotenv=False)
        return
    with asyncio.Runner(loop_factory=loop_factory(options.uvloop)) as runner:
        runner.run(_serve(APPLICATIONS[options.what](), options.port))


if __name__ == "__main__":
    main()
