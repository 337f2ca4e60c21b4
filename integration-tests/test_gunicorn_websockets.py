"""What gunicorn's settings mean to WebSockets."""

from __future__ import annotations

import asyncio
import re
import socket

import aiohttp
import pytest

#: Seconds after which something counts as hanging; no statement about speed.
HANG = 60

APP = """
import os
from flask import Flask, request
from flask_aio_core import AioHTTP
from flask_aio_ws import websocket, ws

app = Flask(__name__)
AioHTTP(app)

@app.get("/")
async def index():
    return str(os.getpid())

@app.route("/echo")
@websocket
async def echo():
    await ws.send_str(f"{os.getpid()} {request.remote_addr}")
    async for message in ws:
        await ws.send_str(message.data)

@app.route("/synchronous-echo")
@websocket
def synchronous_echo():
    ws.send(f"{os.getpid()} {request.remote_addr}")
    for message in ws:
        ws.send(message)
"""

PATHS = ["/echo", "/synchronous-echo"]


@pytest.fixture
async def client():
    """A client that waits no longer than for something that hangs."""
    timeout = aiohttp.ClientTimeout(total=HANG)
    # Each request on a connection of its own.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        yield session


@pytest.mark.parametrize("worker", ["AioWorker", "AioUVLoopWorker"])
@pytest.mark.parametrize("path", PATHS)
async def test_a_websocket_is_logged_when_it_is_closed(gunicorn, client, path, worker):
    """The access log has a line for it, with status 101, after its end and not before."""
    server = gunicorn(
        *("--access-logfile", "-"),
        *("--access-logformat", "<%(m)s %(U)s %(s)s %(h)s %({x-request-id}i)s>"),
        app=APP,
        worker=worker,
    )
    async with client.ws_connect(server.url + path, headers={"X-Request-Id": "7"}) as ws:
        await ws.receive_str()
        async with client.get(server.url) as response:
            assert response.status == 200
        await asyncio.to_thread(server.wait_for, "<GET / 200 127.0.0.1 ->")
        assert path not in server.output
    await asyncio.to_thread(server.wait_for, f"<GET {path} 101 127.0.0.1 7>")
    assert await asyncio.to_thread(server.stop) == 0
    assert server.output.count(path) == 1


@pytest.mark.parametrize("path", PATHS)
async def test_a_websocket_is_one_of_the_worker_connections(gunicorn, client, path):
    """While it is open the next client waits in the backlog; then it is served."""
    server = gunicorn("--worker-connections", "1", app=APP)
    ws = await client.ws_connect(server.url + path)
    pid, _ = (await ws.receive_str()).split()
    waiting = asyncio.create_task(client.get(server.url))
    for number in range(20):
        await ws.send_str(str(number))
        assert await ws.receive_str() == str(number)
    assert not waiting.done()
    await ws.close()
    async with await waiting as response:
        assert await response.text() == pid


@pytest.mark.parametrize("path", PATHS)
async def test_a_websocket_is_one_of_max_requests(gunicorn, client, path):
    """However much is sent, it counts once; the worker that is replaced closes it with 1001."""
    server = gunicorn("--max-requests", "3", app=APP)
    ws = await client.ws_connect(server.url + path)
    pid, _ = (await ws.receive_str()).split()
    for number in range(20):
        await ws.send_str(str(number))
        assert await ws.receive_str() == str(number)
    for _ in range(2):
        async with client.get(server.url) as response:
            assert await response.text() == pid
    closed = await ws.receive()
    assert (closed.type, closed.data) == (aiohttp.WSMsgType.CLOSE, 1001)
    await ws.close()
    await asyncio.to_thread(server.wait_for, "Autorestarting worker after 3 requests.")
    async with client.get(server.url) as response:
        assert await response.text() != pid


@pytest.mark.parametrize("path", PATHS)
def test_the_proxy_protocol_tells_the_client_of_a_websocket(gunicorn, path):
    """Its header may stand in front of a handshake."""
    server = gunicorn("--proxy-protocol", "auto", app=APP)
    with socket.create_connection(("127.0.0.1", server.port), HANG) as connection:
        connection.sendall(
            b"PROXY TCP4 9.8.7.6 1.2.3.4 1111 2222\r\n"
            b"GET %b HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
            % path.encode()
        )
        received = b""
        while not re.search(rb"\r\n\r\n..\d+ 9\.8\.7\.6$", received, re.DOTALL):
            piece = connection.recv(65536)
            assert piece, received
            received += piece
        assert received.startswith(b"HTTP/1.1 101 ")
