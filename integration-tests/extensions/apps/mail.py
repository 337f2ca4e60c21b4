"""Flask-Mail: a message from each kind of view."""

import asyncio

from flask import Flask
from flask_mail import Mail, Message

from flask_aio_core import in_thread
from flask_aio_ws import websocket, ws

app = Flask(__name__)
app.config.from_prefixed_env()
app.config["MAIL_DEFAULT_SENDER"] = "app@notes.example"
mail = Mail(app)


def send(subject):
    mail.send(Message(subject, recipients=["ada@notes.example"], body="Milk"))


@app.post("/synchronous/<subject>")
def synchronous(subject):
    send(subject)
    return "sent"


@app.post("/coroutine/<subject>")
async def coroutine(subject):
    await asyncio.sleep(0.01)
    in_thread(send)(subject)  # smtplib blocks.
    return "sent"


@app.route("/socket")
@websocket
async def socket():
    async for message in ws:
        in_thread(send)(message.data)
        await ws.send_str("sent")
