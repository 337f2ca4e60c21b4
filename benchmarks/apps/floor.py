"""The floor: the least that anything which serves Flask on aiohttp has to do.

The handler calls Flask inline, on the event loop: no threads, no greenlets, no features.
"""

from __future__ import annotations

import io
import sys
from typing import Any

from aiohttp import web

from .plain_flask import make_app


def make_application() -> web.Application:
    """Return the application."""
    flask_app = make_app()

    async def handle(request: web.Request) -> web.Response:
        environ = {
            "REQUEST_METHOD": request.method,
            "SCRIPT_NAME": "",
            "PATH_INFO": request.path,
            "QUERY_STRING": request.query_string,
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(await request.read()),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": False,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        for name, value in request.headers.items():
            environ["HTTP_" + name.upper().replace("-", "_")] = value
        for name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            if "HTTP_" + name in environ:
                environ[name] = environ.pop("HTTP_" + name)
        started: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], _: Any = None) -> Any:
            started[:] = [int(status[:3]), headers]

        iterable = flask_app(environ, start_response)
        body = b"".join(iterable)
        iterable.close()  # type: ignore[attr-defined]
        return web.Response(status=started[0], headers=started[1], body=body)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handle)
    return application
