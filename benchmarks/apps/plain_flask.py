"""A Flask application as it is written for a WSGI server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import urllib3
from flask import Flask, render_template, request, send_file
from flask.typing import ResponseReturnValue

from . import content


def make_app() -> Flask:
    """Return the application with synchronous views, and one coroutine view."""
    app = Flask("benchmarks.apps")
    upstream = urllib3.PoolManager(maxsize=64)

    @app.get("/synchronous")
    def synchronous() -> dict[str, Any]:
        return content.PAYLOAD

    @app.get("/coroutine")
    async def coroutine() -> dict[str, Any]:
        return content.PAYLOAD

    @app.get("/wait")
    def wait() -> str:
        time.sleep(content.WAIT)
        return "done"

    @app.get("/upstream")
    def call_upstream() -> ResponseReturnValue:
        return upstream.request("GET", content.upstream_url()).json()  # type: ignore[no-any-return]

    @app.get("/template")
    def template() -> str:
        return render_template(content.TEMPLATE, **content.CONTEXT)

    @app.post("/form")
    def form() -> dict[str, Any]:
        return {"name": request.form["name"], "fields": len(request.form)}

    @app.get("/stream")
    def stream() -> ResponseReturnValue:
        def chunks() -> Iterator[bytes]:
            for _ in range(content.CHUNKS):
                yield content.CHUNK

        return app.response_class(chunks())

    @app.get("/download")
    def download() -> ResponseReturnValue:
        return send_file(content.file_path())

    @app.post("/upload")
    def upload() -> dict[str, Any]:
        size = 0
        while piece := request.stream.read(content.PIECE):
            size += len(piece)
        return {"size": size}

    @app.get("/burn")
    def burn() -> dict[str, Any]:
        return {"total": content.burn()}

    return app
