"""A Flask-SQLAlchemy application; BENCHMARK_VIEWS says which kind of views uses the database.

``python -m benchmarks.apps.database_flask PORT`` serves it with this project.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from . import database_model as model
from .gaps import Gaps

app = Flask("benchmarks.apps")
app.config["SQLALCHEMY_DATABASE_URI"] = model.url()
app.config["SQLALCHEMY_ENGINE_OPTIONS"] = model.POOL
db = SQLAlchemy(app, model_class=model.Base)
gaps = Gaps()


def rows() -> list[dict[str, Any]]:
    """Ask the database, as an application does that knows nothing of asyncio."""
    db.session.execute(model.SLOW)
    return [{"id": item.id, "name": item.name} for item in db.session.scalars(model.page())]


if os.environ["BENCHMARK_VIEWS"] == "coroutine":

    @app.get("/rows")
    async def show() -> list[dict[str, Any]]:
        return rows()

else:

    @app.get("/rows")
    def show() -> list[dict[str, Any]]:
        return rows()


if os.environ["BENCHMARK_SERVER"] == "gevent":
    import gevent

    @app.get("/fast")
    def fast() -> str:
        return "fast"

    @app.get("/gap")
    def gap() -> dict[str, float]:
        gaps.start(lambda: gevent.spawn(gaps.tick, gevent.sleep))
        return {"gap": gaps.longest()}

else:
    from flask_aio_core import AioHTTP

    app.config["AIO_WORKER_QUEUE"] = 1000  # Of the 500 requests at once none is turned away.
    aio = AioHTTP(app)

    @app.get("/fast")
    async def fast() -> str:
        return "fast"

    @app.get("/gap")
    async def gap() -> dict[str, float]:
        gaps.start(lambda: aio.spawn(gaps.tick_on_loop(asyncio.sleep)))
        return {"gap": gaps.longest()}


if __name__ == "__main__":
    aio.run(port=int(sys.argv[1]), uvloop=True, access_log=False, load_dotenv=False)
