"""Flask-WTF: a form, and CSRF protection of every other view."""

import asyncio

from flask import Flask, request
from flask_wtf import CSRFProtect, FlaskForm
from flask_wtf.csrf import generate_csrf
from werkzeug.middleware.proxy_fix import ProxyFix
from wtforms import StringField
from wtforms.validators import DataRequired

from flask_aio_ws import websocket, ws

app = Flask(__name__)
app.secret_key = "for tests"
app.wsgi_app = ProxyFix(app.wsgi_app)
csrf = CSRFProtect(app)


class NoteForm(FlaskForm):
    text = StringField(validators=[DataRequired()])


@app.get("/token")
async def token():
    return generate_csrf()


@app.post("/synchronous")
def synchronous():
    form = NoteForm()
    return form.text.data if form.validate_on_submit() else (form.errors, 422)


@app.post("/coroutine")
async def coroutine():
    await asyncio.sleep(0.01)
    form = NoteForm()
    return form.text.data if form.validate_on_submit() else (form.errors, 422)


@app.post("/stream")
async def stream():
    for _ in range(2):
        yield f"{request.form['text']}\n"
        await asyncio.sleep(0.01)


@app.post("/exempt")
@csrf.exempt
async def exempt():
    await asyncio.sleep(0.01)
    return request.form["text"]


@app.route("/socket")
@websocket
async def socket():
    async for message in ws:
        await ws.send_str(message.data)
