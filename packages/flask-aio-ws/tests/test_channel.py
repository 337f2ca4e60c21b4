"""Channels: joining and leaving, publishing, and members that receive too slowly."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from flask import request
from websockets.asyncio.client import connect as connect_websockets

from flask_aio_core import await_
from flask_aio_ws import Channel, SyncWebSocket, websocket, ws

#: Far more than the buffers of a connection hold, in messages of which a queue holds a few.
PIECE = 64 * 1024
MANY = 600


@pytest.fixture
def channel() -> Channel:
    """A channel with the default options."""
    return Channel("room")


def add_room(app, *channels, path="/room", ended=None):
    """Add a view whose clients are members of channels; ended is set when a view has ended."""

    @app.route(path, endpoint=path)
    @websocket
    async def room():
        for channel in channels:
            await channel.join(ws)
        try:
            async for _ in ws:
                pass
        finally:
            for channel in channels:
                await channel.leave(ws)
            if ended is not None:
                ended.set()


def sender_tasks():
    """Return the tasks that send to members."""
    tasks = [task for task in asyncio.all_tasks() if not task.done()]
    return [task for task in tasks if "_Member" in repr(task.get_coro())]


class Raw:
    """A client over a plain socket that reads only when it is told to."""

    def __init__(self, reader, writer):
        self._reader, self._writer = reader, writer

    async def read_frame(self) -> tuple[int, bytes]:
        """Read one unfragmented frame; return its opcode and payload."""
        first, second = await self._reader.readexactly(2)
        assert first & 0xF0 == 0x80
        length = second
        if second == 126:
            (length,) = struct.unpack("!H", await self._reader.readexactly(2))
        elif second == 127:
            (length,) = struct.unpack("!Q", await self._reader.readexactly(8))
        return first & 0x0F, await self._reader.readexactly(length)


@asynccontextmanager
async def raw_client(client, path="/room"):
    """Open a WebSocket without compression whose receive buffers are small."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE)
    plain.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plain, (client.host, client.port))
    reader, writer = await asyncio.open_connection(sock=plain, limit=4096)
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: {client.host}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()


def numbered(number: int) -> bytes:
    """Return a large message that knows its number."""
    return number.to_bytes(8, "big") + bytes(PIECE - 8)


async def test_text_reaches_all_members(app, aio, serve, eventually, channel):
    """A string arrives as a text message at every member, whatever its client is."""
    add_room(app, channel)
    client = await serve(app)
    async with (
        client.ws_connect("/room") as one,
        connect_websockets(f"ws://{client.host}:{client.port}/room") as two,
    ):
        await eventually(lambda: len(channel) == 2)
        assert await channel.publish("Grüße") == 2
        assert await one.receive_str() == "Grüße"
        assert await two.recv() == "Grüße"


async def test_bytes_reach_all_members(app, aio, serve, eventually, channel):
    """Bytes arrive as a binary message."""
    add_room(app, channel)
    client = await serve(app)
    async with client.ws_connect("/room") as one, client.ws_connect("/room") as two:
        await eventually(lambda: len(channel) == 2)
        assert await channel.publish(b"\x00\xff") == 2
        assert await one.receive_bytes() == b"\x00\xff"
        assert await two.receive_bytes() == b"\x00\xff"


async def test_json_is_encoded_once(app, aio, serve, eventually, channel, monkeypatch):
    """JSON arrives as a text message that was encoded for all members together."""
    add_room(app, channel)
    client = await serve(app)
    calls = []

    def dumps(data):
        calls.append(data)
        return json.dumps(data)

    # Only there: Flask's sessions encode JSON as well.
    monkeypatch.setattr("flask_aio_ws.channel.json", SimpleNamespace(dumps=dumps))
    async with client.ws_connect("/room") as one, client.ws_connect("/room") as two:
        await eventually(lambda: len(channel) == 2)
        assert await channel.publish_json({"price": 3}) == 2
        assert json.loads(await one.receive_str()) == {"price": 3}
        assert json.loads(await two.receive_str()) == {"price": 3}
    assert calls == [{"price": 3}]


async def test_publish_without_members(channel):
    """Publishing to an empty channel reaches nobody."""
    assert await channel.publish("hello") == 0
    assert await channel.publish_json([]) == 0


async def test_empty_message(app, aio, serve, eventually, channel):
    """An empty message is a message."""
    add_room(app, channel)
    client = await serve(app)
    async with client.ws_connect("/room") as one:
        await eventually(lambda: len(channel) == 1)
        assert [await channel.publish(""), await channel.publish(b"")] == [1, 1]
        assert await one.receive_str() == ""
        assert await one.receive_bytes() == b""


async def test_joined_holds_for_the_block(app, aio, serve, channel):
    """A socket is a member inside the block of joined, and not before or after it."""
    seen = []

    @app.route("/room")
    @websocket
    async def room():
        seen.append((len(channel), ws in channel))
        async with channel.joined(ws) as same:
            seen.append((len(channel), ws in channel))
            assert same is channel
        seen.append((len(channel), ws in channel))

    client = await serve(app)
    async with client.ws_connect("/room") as one:
        await one.receive()
    assert seen == [(0, False), (1, True), (0, False)]


async def test_joined_leaves_after_an_error(app, aio, serve, channel):
    """An error in the block of joined ends the membership too."""

    @app.route("/room")
    @websocket
    async def room():
        async with channel.joined(ws):
            raise RuntimeError("broken")

    client = await serve(app)
    async with client.ws_connect("/room") as one:
        await one.receive()
        assert one.close_code == 1011
    assert len(channel) == 0


async def test_join_twice_is_join(app, aio, serve, channel):
    """A socket that joins again is one member, and gets each message once."""

    @app.route("/room")
    @websocket
    async def room():
        await channel.join(ws)
        await channel.join(ws._get_current_object())
        assert len(channel) == 1
        assert await channel.publish("once") == 1
        await ws.receive()

    client = await serve(app)
    async with client.ws_connect("/room") as one:
        assert await one.receive_str() == "once"
        await one.send_str("end")
        await one.receive()
        assert one.close_code == 1000


async def test_leave_of_a_non_member(app, aio, serve, channel):
    """Leaving without being a member, or twice, does nothing."""

    @app.route("/room")
    @websocket
    async def room():
        await channel.leave(ws)
        async with channel.joined(ws):
            await channel.leave(ws)
            assert ws not in channel
        await channel.leave(ws)
        await ws.send_str("fine")

    client = await serve(app)
    async with client.ws_connect("/room") as one:
        assert await one.receive_str() == "fine"


async def test_no_message_after_leave(app, aio, serve, channel):
    """What is published after a socket has left does not reach it."""

    @app.route("/room")
    @websocket
    async def room():
        async with channel.joined(ws):
            pass
        assert await channel.publish("late") == 0
        await ws.send_str("last")

    client = await serve(app)
    async with client.ws_connect("/room") as one:
        assert await one.receive_str() == "last"


async def test_other_objects_are_no_members(channel):
    """Anything may be asked about with in."""
    assert "socket" not in channel
    assert None not in channel


async def test_closed_socket_is_let_go(app, aio, serve, eventually, channel):
    """A member that was closed without leaving is no longer reached, and is removed."""
    ended = asyncio.Event()

    @app.route("/room")
    @websocket
    async def room():
        await channel.join(ws)
        async for _ in ws:
            pass
        ended.set()

    client = await serve(app)
    async with client.ws_connect("/room") as one:
        await eventually(lambda: len(channel) == 1)
        await one.close()
    await ended.wait()
    assert await channel.publish("anyone?") == 0
    assert len(channel) == 0
    await eventually(lambda: not sender_tasks())


async def test_closed_socket_does_not_join(app, aio, serve, channel):
    """A socket that is closed does not become a member."""
    ended = asyncio.Event()

    @app.route("/room")
    @websocket
    async def room():
        await ws.close()
        await channel.join(ws)
        ended.set()

    client = await serve(app)
    async with client.ws_connect("/room") as one:
        await one.receive()
        await ended.wait()
    assert len(channel) == 0


async def test_client_that_vanished_is_let_go(app, aio, serve, eventually, channel):
    """A client whose connection breaks stops being a member, and the others are reached."""
    add_room(app, channel)
    client = await serve(app)
    async with client.ws_connect("/room") as one:
        async with raw_client(client):
            await eventually(lambda: len(channel) == 2)
        await eventually(lambda: len(channel) == 1)
        assert await channel.publish("still here") == 1
        assert await one.receive_str() == "still here"


async def test_order_is_kept(app, aio, serve, eventually, channel):
    """Each member gets the messages in the order in which they were published."""
    add_room(app, channel)
    client = await serve(app)
    async with client.ws_connect("/room") as one, client.ws_connect("/room") as two:
        await eventually(lambda: len(channel) == 2)
        for number in range(300):
            message = f"{number}" if number % 3 else f"{number}".encode()
            assert await channel.publish(message) == 2
            if number % 20 == 19:
                for receiver in (one, two):
                    received = [(await receiver.receive()).data for _ in range(20)]
                    assert [int(data) for data in received] == [*range(number - 19, number + 1)]


async def test_member_of_two_channels(app, aio, serve, eventually):
    """A socket may be in two channels, and leave one of them."""
    news, prices = Channel("news"), Channel("prices")

    @app.route("/room")
    @websocket
    async def room():
        async with news.joined(ws), prices.joined(ws):
            await ws.receive()
            await prices.leave(ws)
            await ws.send_str("left prices")
            await ws.receive()

    client = await serve(app)
    async with client.ws_connect("/room") as one:
        await eventually(lambda: len(news) == len(prices) == 1)
        assert await news.publish("n1") + await prices.publish("p1") == 2
        assert {await one.receive_str(), await one.receive_str()} == {"n1", "p1"}
        await one.send_str("leave")
        assert await one.receive_str() == "left prices"
        assert await prices.publish("p2") == 0
        assert await news.publish("n2") == 1
        assert await one.receive_str() == "n2"
    await eventually(lambda: not news and not prices)


async def test_publish_from_a_synchronous_view(app, aio, serve, eventually, channel):
    """A synchronous view that is no WebSocket's publishes by await_."""
    add_room(app, channel)

    @app.post("/publish")
    def publish():
        return str(await_(channel.publish(request.get_data())))

    client = await serve(app)
    async with client.ws_connect("/room") as one:
        await eventually(lambda: len(channel) == 1)
        response = await client.post("/publish", data=b"from a thread")
        assert await response.text() == "1"
        assert await one.receive_bytes() == b"from a thread"


async def test_synchronous_websocket_view(app, aio, serve, eventually, channel):
    """A synchronous WebSocket view joins, publishes and leaves, and is the same by any face."""

    @app.route("/room")
    @websocket
    def room():
        await_(channel.join(ws))
        assert isinstance(ws._get_current_object(), SyncWebSocket)
        assert ws in channel
        assert ws.socket in channel
        for message in ws:
            await_(channel.publish(message))
        await_(channel.leave(ws.socket))

    client = await serve(app)
    async with client.ws_connect("/room") as one, client.ws_connect("/room") as two:
        await eventually(lambda: len(channel) == 2)
        await one.send_str("to all")
        assert await one.receive_str() == "to all"
        assert await two.receive_str() == "to all"
    await eventually(lambda: not channel)


async def test_full_queue_drops(app, aio, serve, eventually):
    """With "drop", what does not fit into a queue is left out, and is not counted."""
    channel = Channel(queue_size=2, on_full="drop")
    add_room(app, channel)
    client = await serve(app)
    async with client.ws_connect("/room") as one:
        await eventually(lambda: len(channel) == 1)
        assert [await channel.publish(text) for text in "abc"] == [1, 1, 0]
        assert [await one.receive_str(), await one.receive_str()] == ["a", "b"]
        assert await channel.publish("d") == 1
        assert await one.receive_str() == "d"


async def test_full_queue_disconnects(app, aio, serve, eventually):
    """With "disconnect", a member whose queue is full leaves at once, and is closed with 1013."""
    channel = Channel(queue_size=1)
    ended = asyncio.Event()
    add_room(app, channel, ended=ended)
    client = await serve(app)
    async with connect_websockets(f"ws://{client.host}:{client.port}/room") as one:
        await eventually(lambda: len(channel) == 1)
        assert await channel.publish("a") == 1
        assert await channel.publish("b") == 0
        assert len(channel) == 0
        await one.wait_closed()
        assert (one.close_code, one.close_reason) == (1013, "Too slow.")
        await ended.wait()
    await eventually(lambda: not sender_tasks())


async def test_slow_member_is_disconnected(app, aio, serve, eventually):
    """A client that does not read is dropped and closed with 1013; the others miss nothing."""
    channel = Channel(queue_size=8)
    ended = asyncio.Event()
    add_room(app, channel, path="/room")
    add_room(app, channel, path="/slow", ended=ended)
    client = await serve(app)
    async with client.ws_connect("/room") as fast, raw_client(client, "/slow") as slow:
        await eventually(lambda: len(channel) == 2)
        published = 0
        while len(channel) == 2:
            assert published < MANY, "the slow member was never dropped"
            await channel.publish(numbered(published))
            assert await fast.receive_bytes() == numbered(published)
            published += 1
        await ended.wait()
        assert len(channel) == 1
        assert await channel.publish("on it goes") == 1
        assert await fast.receive_str() == "on it goes"
        opcode, data = await slow.read_frame()
        received = 0
        while opcode == 2:
            assert data == numbered(received)
            received += 1
            opcode, data = await slow.read_frame()
        assert (opcode, data) == (8, struct.pack("!H", 1013) + b"Too slow.")
        assert received < published
    await eventually(lambda: not sender_tasks())


async def test_slow_member_that_never_reads_is_cut(app, aio, serve, eventually):
    """A dropped client that goes on reading nothing loses its connection, and what waits for it."""
    app.config["AIO_WS_CLOSE_TIMEOUT"] = 0.05
    channel = Channel(queue_size=4)
    add_room(app, channel)
    transports: list[Any] = []

    @app.before_request
    def remember():
        transports.append(request.environ["aiohttp.request"].transport)

    client = await serve(app)
    async with raw_client(client):
        await eventually(lambda: len(channel) == 1)
        while channel:
            await channel.publish(numbered(0))
            await asyncio.sleep(0)
        (transport,) = transports
        await eventually(lambda: transport.get_extra_info("socket").fileno() == -1)


async def test_slow_member_misses_messages(app, aio, serve, eventually):
    """With "drop", a client that does not read stays, takes little memory, and reads on later."""
    channel = Channel(queue_size=8, on_full="drop")
    transports: list[Any] = []
    add_room(app, channel)

    @app.before_request
    def remember():
        transports.append(request.environ["aiohttp.request"].transport)

    client = await serve(app)
    async with raw_client(client) as slow, client.ws_connect("/room") as fast:
        await eventually(lambda: len(channel) == 2)
        transport = transports[0]
        reached = []
        for number in range(MANY):
            reached.append(await channel.publish(numbered(number)))
            assert await fast.receive_bytes() == numbered(number)
            assert transport.get_write_buffer_size() <= 8 * PIECE
        assert len(channel) == 2
        assert set(reached) == {1, 2}
        assert reached[-1] == 1

        received = []
        for _ in range(reached.count(2)):
            opcode, data = await slow.read_frame()
            assert opcode == 2
            received.append(int.from_bytes(data[:8], "big"))
        assert received == [number for number, count in enumerate(reached) if count == 2]
        assert await channel.publish("caught up") == 2
        assert await slow.read_frame() == (1, b"caught up")
        assert await fast.receive_str() == "caught up"


async def test_no_task_is_left(app, aio, serve, eventually, channel):
    """The task of each member ends when it leaves."""
    add_room(app, channel)
    client = await serve(app)
    async with client.ws_connect("/room"), client.ws_connect("/room"):
        await eventually(lambda: len(channel) == 2)
        assert len(sender_tasks()) == 2
    await eventually(lambda: not channel)
    await eventually(lambda: not sender_tasks())


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"queue_size": 0}, ValueError),
        ({"queue_size": -1}, ValueError),
        ({"queue_size": "many"}, TypeError),
        ({"on_full": "wait"}, ValueError),
        ({"on_full": None}, ValueError),
        ({"size": 3}, TypeError),
    ],
)
def test_bad_options(options, error):
    """A channel that could not work is refused when it is made."""
    with pytest.raises(error):
        Channel(**options)


@pytest.mark.parametrize("data", [None, 1, ["text"], bytearray(b"bytes"), memoryview(b"bytes")])
async def test_publish_takes_strings_and_bytes(channel, data):
    """Publishing anything else is an error that names publish_json."""
    with pytest.raises(TypeError, match="publish_json"):
        await channel.publish(data)


async def test_publish_json_of_no_json(app, aio, serve, eventually, channel):
    """Data that is no JSON is an error for who publishes it, and no member notices."""
    add_room(app, channel)
    client = await serve(app)
    async with client.ws_connect("/room") as one:
        await eventually(lambda: len(channel) == 1)
        with pytest.raises(TypeError):
            await channel.publish_json(object())
        assert await channel.publish("fine") == 1
        assert await one.receive_str() == "fine"


async def test_publish_of_text_that_is_no_unicode(app, aio, serve, eventually, channel):
    """A string with a lone surrogate is an error for who publishes it, and no member notices."""
    add_room(app, channel)
    client = await serve(app)
    async with client.ws_connect("/room") as one:
        await eventually(lambda: len(channel) == 1)
        with pytest.raises(UnicodeEncodeError):
            await channel.publish("\ud800")
        assert await channel.publish("fine") == 1
        assert await one.receive_str() == "fine"


async def test_incompressible_message_of_a_megabyte(app, aio, serve, eventually, channel):
    """A large message arrives whole, compressed or not."""
    add_room(app, channel)
    client = await serve(app)
    data = os.urandom(1024 * 1024)
    async with (
        client.ws_connect("/room", compress=15) as one,
        client.ws_connect("/room") as two,
    ):
        await eventually(lambda: len(channel) == 2)
        assert await channel.publish(data) == 2
        assert await one.receive_bytes() == data
        assert await two.receive_bytes() == data
