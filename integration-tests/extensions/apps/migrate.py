"""Flask-Migrate: the tables are made by ``flask db upgrade``."""

import asyncio

from flask import Flask
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy

app = Flask(__name__)
app.config.from_prefixed_env()
db = SQLAlchemy(app)
migrate = Migrate(app, db)


class Note(db.Model):
    id = db.Column(db.Integer, primary_key=True)
    text = db.Column(db.String, nullable=False)


@app.post("/synchronous/<text>")
def synchronous(text):
    db.session.add(Note(text=text))
    db.session.commit()
    return [note.text for note in Note.query]


@app.post("/coroutine/<text>")
async def coroutine(text):
    await asyncio.sleep(0.01)
    return synchronous(text)
