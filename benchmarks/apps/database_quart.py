"""The application written for Quart, with SQLAlchemy's own asyncio API."""

from __future__ import annotations

import asyncio
from typing import Any

from quart import Quart
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from . import database_model as model
from .gaps import Gaps

app = Quart("benchmarks.apps")
make_session = async_sessionmaker(create_async_engine(model.url(), **model.POOL))
gaps = Gaps()


@app.get("/rows")
async def show() -> list[dict[str, Any]]:
    async with make_session() as session:
        await session.execute(model.SLOW)
        return [{"id": item.id, "name": item.name} for item in await session.scalars(model.page())]


@app.get("/fast")
async def fast() -> str:
    return "fast"


@app.get("/gap")
async def gap() -> dict[str, float]:
    gaps.start(lambda: asyncio.create_task(gaps.tick_on_loop(asyncio.sleep)))
    return {"gap": gaps.longest()}
