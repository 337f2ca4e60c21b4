"""Flask-JWT-Extended, with callbacks that are coroutine functions."""

import asyncio

from flask import Flask, request
from flask_jwt_extended import (
    JWTManager,
    create_access_token,
    current_user,
    get_jwt,
    get_jwt_identity,
    jwt_required,
)

from flask_aio_ws import websocket, ws

app = Flask(__name__)
app.config["JWT_SECRET_KEY"] = "for tests, and long enough for SHA-256"
jwt = JWTManager(app)
revoked = set()


@jwt.token_in_blocklist_loader
async def is_revoked(header, payload):
    await asyncio.sleep(0.01)
    return payload["jti"] in revoked


@jwt.user_lookup_loader
async def look_up(header, payload):
    await asyncio.sleep(0.01)
    return {"name": payload["sub"].title()}


@app.post("/login")
async def login():
    return create_access_token(request.form["name"])


@app.get("/synchronous")
@jwt_required()
def synchronous():
    return f"{get_jwt_identity()} {current_user['name']}"


@app.get("/coroutine")
@jwt_required()
async def coroutine():
    await asyncio.sleep(0.01)
    return f"{get_jwt_identity()} {current_user['name']}"


@app.get("/stream")
@jwt_required()
async def stream():
    for _ in range(2):
        yield f"{get_jwt_identity()}\n"
        await asyncio.sleep(0.01)


@app.post("/logout")
@jwt_required()
async def logout():
    revoked.add(get_jwt()["jti"])
    return ""


@app.route("/socket")
@jwt_required()
@websocket
async def socket():
    async for message in ws:
        await ws.send_str(f"{get_jwt_identity()}: {message.data}")
