"""Flask-Admin over Flask-SQLAlchemy, with CSV export and a page that is a coroutine."""

import asyncio

from flask import Flask, g
from flask_admin import Admin, BaseView, expose
from flask_admin.contrib.sqla import ModelView
from flask_babel import Babel
from flask_sqlalchemy import SQLAlchemy

app = Flask(__name__)
app.secret_key = "for tests"
app.config.from_prefixed_env()
Babel(app)  # Flask-Admin uses Flask-Babel if it is installed.
db = SQLAlchemy(app)
finished = []


class Note(db.Model):
    id = db.Column(db.Integer, primary_key=True)
    text = db.Column(db.String, nullable=False)


with app.app_context():
    db.create_all()
    if not db.session.query(Note).count():
        db.session.add_all(Note(text=f"note {number} " + "x" * 500) for number in range(2000))
        db.session.commit()


class NoteView(ModelView):
    can_export = True
    export_max_rows = 2000


class Report(BaseView):
    @expose("/")
    async def index(self):
        await asyncio.sleep(0.01)
        return f"{Note.query.filter(Note.text.startswith('note')).count()} notes"

    @expose("/stream")
    async def stream(self):
        for number in range(2):
            yield f"{number}\n"
            await asyncio.sleep(0.01)


admin = Admin(app, name="Notes")
admin.add_view(NoteView(Note, db.session))
admin.add_view(Report(name="Report", endpoint="report"))


@app.before_request
def note_request():
    g.name = "request"


@app.teardown_request
def note_end(error):
    finished.append(g.name)


@app.get("/finished")
def count_finished():
    return str(len(finished))
