"""Flask-SQLAlchemy on an asyncio driver."""

import asyncio

from flask import Flask, abort
from flask_sqlalchemy import SQLAlchemy

from flask_aio_core import AioHTTP
from flask_aio_ws import websocket, ws

app = Flask(__name__)
app.config.from_prefixed_env()
db = SQLAlchemy(app)
aio = AioHTTP(app)


class Note(db.Model):
    id = db.Column(db.Integer, primary_key=True)
    text = db.Column(db.String, nullable=False)


@aio.on_startup
def create_tables():
    db.create_all()


def add(text):
    note = Note(text=text)
    db.session.add(note)
    db.session.commit()
    return {"id": note.id, "text": note.text}


@app.post("/synchronous/<text>")
def synchronous(text):
    return add(text)


@app.post("/coroutine/<text>")
async def coroutine(text):
    await asyncio.sleep(0.01)
    added = add(text)
    await asyncio.sleep(0.01)
    return added


@app.get("/notes/<int:id>")
async def note(id):
    return db.get_or_404(Note, id).text


@app.get("/like/<pattern>")
async def stream(pattern):
    for found in db.session.scalars(db.select(Note).where(Note.text.like(pattern))):
        yield f"{found.text}\n"
        await asyncio.sleep(0.01)


@app.post("/fail/<text>")
async def fail(text):
    db.session.add(Note(text=text))
    db.session.flush()
    await asyncio.sleep(0.01)
    abort(409)


@app.route("/socket")
@websocket
async def socket():
    async for message in ws:
        with app.app_context():  # A session for each message, not for hours.
            await ws.send_json(add(message.data))
