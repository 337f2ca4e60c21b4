"""The server that the Autobahn test suite talks to: an echo over a WebSocket."""

from aiohttp import WSMsgType
from flask import Flask

from flask_aio_core import AioHTTP
from flask_aio_ws import websocket, ws

app = Flask(__name__)
aio = AioHTTP(app)


@app.route("/")
@websocket(max_message_size=64 * 1024 * 1024)
async def echo():
    async for message in ws:
        if message.type is WSMsgType.TEXT:
            await ws.send_str(message.data)
        else:
            await ws.send_bytes(message.data)


if __name__ == "__main__":
    aio.run(port=0, debug=False, access_log=False)
