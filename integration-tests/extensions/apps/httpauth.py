"""Flask-HTTPAuth: passwords and tokens, checked by coroutine functions."""

import asyncio

from flask import Flask
from flask_httpauth import HTTPBasicAuth, HTTPDigestAuth, HTTPTokenAuth, MultiAuth

from flask_aio_ws import websocket, ws

app = Flask(__name__)
app.secret_key = "for tests"
basic = HTTPBasicAuth()
token = HTTPTokenAuth()
digest = HTTPDigestAuth()
either = MultiAuth(basic, token)


@basic.verify_password
async def verify_password(name, password):
    await asyncio.sleep(0.01)
    return name if password == f"password of {name}" else None


@basic.get_user_roles
async def get_roles(name):
    await asyncio.sleep(0.01)
    return "admin" if name == "root" else "user"


@token.verify_token
def verify_token(text):
    return text.removeprefix("token-of-") if text.startswith("token-of-") else None


@digest.get_password
def get_password(name):
    return f"password of {name}"


@app.get("/synchronous")
@basic.login_required
def synchronous():
    return basic.current_user()


@app.get("/coroutine")
@either.login_required
async def coroutine():
    before = either.current_user()
    await asyncio.sleep(0.01)
    return f"{before} {either.current_user()}"


@app.get("/roles")
@basic.login_required(role="admin")
async def roles():
    return basic.current_user()


@app.get("/digest")
@digest.login_required
async def digested():
    await asyncio.sleep(0.01)
    return digest.current_user()


@app.get("/stream")
@basic.login_required
async def stream():
    for _ in range(2):
        yield f"{basic.current_user()}\n"
        await asyncio.sleep(0.01)


@app.route("/socket")
@token.login_required
@websocket
async def socket():
    async for message in ws:
        await ws.send_str(f"{token.current_user()}: {message.data}")
