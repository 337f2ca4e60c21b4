"""Flask-Login: users of a dictionary, with each kind of view behind ``login_required``."""

import asyncio
import time

from flask import Flask, request
from flask_login import LoginManager, UserMixin, current_user, login_required, login_user

from flask_aio_ws import websocket, ws

app = Flask(__name__)
app.secret_key = "for tests"
app.config.from_prefixed_env()
login_manager = LoginManager(app)


class User(UserMixin):
    def __init__(self, id):
        self.id = id


@login_manager.user_loader
def load_user(user_id):
    if user_id == "slow":
        time.sleep(1)
    return User(user_id)


@login_manager.request_loader
async def load_user_of_token(request):
    await asyncio.sleep(0.01)
    token = request.headers.get("X-Token", "")
    return User(token.removeprefix("token of ")) if token.startswith("token of ") else None


@app.post("/login")
def login():
    login_user(User(request.form["name"]), remember="remember" in request.form)
    return ""


@app.post("/login-coroutine")
async def login_coroutine():
    await asyncio.sleep(0.01)
    login_user(User(request.form["name"]), remember="remember" in request.form)
    return ""


@app.get("/synchronous")
@login_required
def synchronous():
    return current_user.id


@app.get("/coroutine")
@login_required
async def coroutine():
    before = current_user.id
    await asyncio.sleep(0.02)
    return f"{before} {current_user.id}"


@app.get("/stream")
@login_required
async def stream():
    for _ in range(3):
        yield f"{current_user.id}\n"
        await asyncio.sleep(0.01)


@app.route("/socket")
@login_required
@websocket
async def socket():
    async for message in ws:
        await ws.send_str(f"{current_user.id}: {message.data}")
