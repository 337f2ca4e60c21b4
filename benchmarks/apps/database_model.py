"""What every contender of the database benchmark reads, and what it is asked for."""

from __future__ import annotations

import os
from typing import Any, Final

from sqlalchemy import Select, TextClause, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

#: Rows of the table, and of each answer.
ROWS: Final = 1000
PAGE: Final = 10
#: A query that keeps the database busy for ten milliseconds, as a join or a slow network does.
SLOW: Final[TextClause] = text("SELECT pg_sleep(0.01)")
#: The same for all: a connection for a request, and no more than this at once.
POOL: Final[dict[str, Any]] = {"pool_size": 20, "max_overflow": 0, "pool_timeout": 60}


class Base(DeclarativeBase):
    """The models."""


class Item(Base):
    """A row."""

    __tablename__ = "item"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


def url() -> str:
    """Return the address of the database, with the driver to use."""
    return os.environ["BENCHMARK_DATABASE"]


def page() -> Select[tuple[Item]]:
    """Return the query for some rows."""
    return select(Item).where(Item.id > ROWS // 2).order_by(Item.id).limit(PAGE)
