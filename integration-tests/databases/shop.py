"""A shop as its author would have written it for a blocking driver; DATABASE_URL names another.

It uses the database wherever a Flask app can. The tests run it under each server.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import click
from flask import Flask, g, render_template_string
from flask_login import LoginManager, UserMixin, current_user, login_required, login_user
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import ForeignKey, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from flask_aio_core import AioHTTP
from flask_aio_ws import websocket, ws


class Base(DeclarativeBase):
    pass


app = Flask(__name__)
app.config["SECRET_KEY"] = "not a secret"
app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["DATABASE_URL"]
# The engine is made here: before the fork, where gunicorn preloads the app.
db: Any = SQLAlchemy(app, model_class=Base)
Migrate(app, db)
login_manager = LoginManager(app)
aio = AioHTTP(app)


class User(UserMixin, db.Model):  # type: ignore[misc]
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    items: Mapped[list[Item]] = relationship(order_by="Item.name")


class Item(db.Model):  # type: ignore[misc]
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    user_id: Mapped[int] = mapped_column(ForeignKey("user.id"))


PAGE = """
{%- for user in users -%}
  {{ user.name }}:{% for item in user.items %} {{ item.name }}{% endfor %};
{%- endfor %}"""


def users() -> Any:
    return db.session.scalars(select(User).order_by(User.name))


def count() -> int:
    return int(db.session.scalar(select(func.count()).select_from(User)))


@login_manager.user_loader
def load_user(identity: str) -> Any:
    return db.session.get(User, int(identity))


@app.before_request
def count_users() -> None:
    g.users = count()


@app.before_request
async def count_again() -> None:
    await asyncio.sleep(0)
    g.again = count()


@app.after_request
def sign(response: Any) -> Any:
    response.headers["X-Users"] = f"{g.users} {g.again} {count()}"
    response.headers["X-Pid"] = str(os.getpid())
    return response


@app.context_processor
def add_count() -> dict[str, int]:
    return {"count": count()}


@app.post("/login/<name>")
async def login(name: str) -> str:
    login_user(db.session.scalars(select(User).filter_by(name=name)).one())
    return "welcome"


@app.get("/coroutine/me")
@login_required
async def me() -> str:
    await asyncio.sleep(0)
    return str(current_user.name)


@app.get("/synchronous/me")
@login_required
def me_synchronous() -> str:
    return str(current_user.name)


@app.post("/coroutine/items/<name>")
@login_required
async def add(name: str) -> list[str]:
    current_user.items.append(Item(name=name))
    db.session.commit()
    await asyncio.sleep(0)
    return [item.name for item in current_user.items]


@app.post("/synchronous/items/<name>")
@login_required
def add_synchronous(name: str) -> list[str]:
    current_user.items.append(Item(name=name))
    db.session.commit()
    return [item.name for item in current_user.items]


@app.get("/coroutine/page")
async def page() -> str:
    return render_template_string(PAGE + " {{ count }}", users=users())


@app.get("/synchronous/page")
def page_synchronous() -> str:
    return render_template_string(PAGE + " {{ count }}", users=users())


@app.get("/coroutine/stream")
async def stream() -> Any:
    for user in users():
        yield user.name + "\n"
        await asyncio.sleep(0)


@app.get("/synchronous/stream")
def stream_synchronous() -> Any:
    def rows() -> Any:
        with app.app_context():
            for user in users():
                yield user.name + "\n"

    return rows()


@app.route("/coroutine/socket")
@websocket
async def socket() -> None:
    async for message in ws:
        with app.app_context():
            user = db.session.scalars(select(User).filter_by(name=message.data)).one()
            answer = [item.name for item in user.items]
        await ws.send_json(answer)


@app.route("/synchronous/socket")
@websocket
def socket_synchronous() -> None:
    for name in ws:
        with app.app_context():
            user = db.session.scalars(select(User).filter_by(name=name)).one()
            answer = [item.name for item in user.items]
        ws.send_json(answer)


@app.cli.command("fill")
@click.argument("names", nargs=-1)
def fill(names: tuple[str, ...]) -> None:
    db.create_all()
    db.session.add_all([User(name=name) for name in names])
    db.session.commit()


@app.cli.command("count")
async def count_command() -> None:
    await asyncio.sleep(0)
    click.echo(f"{count()} users")
