"""A Flask application whose pages show what it gains from running on aiohttp's event loop.

Run it with ``python examples/demo/app.py``. HOST, PORT, FLASK_DEBUG and SECRET_KEY are read
from the environment. The pages need no network: every upstream is served by the demo itself.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import inspect
import itertools
import json
import math
import os
import platform
import secrets
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import IO, Any, NamedTuple

import aiohttp
from flask import (
    Blueprint,
    Flask,
    Response,
    abort,
    current_app,
    flash,
    redirect,
    render_template,
    request,
    url_for,
)
from flask.helpers import get_debug_flag
from werkzeug.exceptions import HTTPException
from werkzeug.utils import secure_filename
from werkzeug.wrappers import Response as BaseResponse
from yarl import URL

from flask_aio_core import AioHTTP
from flask_aio_ws import Channel, websocket, ws

MAX_SECONDS = 10.0
PIECE = 64 * 1024
UPSTREAM_DELAYS = {1: 0.6, 2: 1.2, 3: 0.4, 4: 1.0, 5: 0.8}
ROOMS = {"lobby": "Lobby", "python": "Python", "tea": "Tea kitchen"}
MAX_NAME = 24
MAX_TEXT = 500
MAX_HISTORY = 50

bp = Blueprint("demo", __name__)


# --- What the views share ---------------------------------------------------------------


class Tick(NamedTuple):
    """One event of the live feed."""

    number: int
    time: str
    viewers: int


class Feed:
    """A feed with one tick a second, which keeps its last minute for viewers who reconnect."""

    def __init__(self) -> None:
        self.viewers = 0
        self.history: deque[Tick] = deque(maxlen=60)
        self.changed = asyncio.Condition()

    @property
    def latest(self) -> int:
        """The number of the latest tick."""
        return self.history[-1].number if self.history else 0

    async def run(self) -> None:
        """Publish ticks until cancelled."""
        while True:
            tick = Tick(self.latest + 1, time.strftime("%H:%M:%S"), self.viewers)
            async with self.changed:
                self.history.append(tick)
                self.changed.notify_all()
            await asyncio.sleep(1)

    async def after(self, number: int | None) -> list[Tick]:
        """Wait for ticks later than *number* and return them; ``None`` means from now on."""
        async with self.changed:
            if number is None or number > self.latest:  # a new viewer, or a restarted server
                number = self.latest
            await self.changed.wait_for(lambda: self.latest > number)
            return [tick for tick in self.history if tick.number > number]


class Room:
    """A chat room: who is in it, and its latest messages for those who come later."""

    def __init__(self, name: str) -> None:
        self.channel = Channel(name)
        self.names: dict[str, str] = {}  # by the name without case: no two may look the same
        self.history: deque[dict[str, Any]] = deque(maxlen=MAX_HISTORY)

    @asynccontextmanager
    async def visit(self, wanted: str) -> AsyncIterator[str]:
        """Be in the room, under the name that is wanted or one like it that is free."""
        others = (f"{wanted} ({number})" for number in itertools.count(2))
        choice = itertools.chain([wanted], others)
        name = next(name for name in choice if name.casefold() not in self.names)
        self.names[name.casefold()] = name
        try:
            async with self.channel.joined(ws):
                history = list(self.history)
                await ws.send_json({"type": "welcome", "name": name, "history": history})
                await self.tell_presence("joined", name)
                yield name
        finally:
            del self.names[name.casefold()]
            await self.tell_presence("left", name)

    async def tell_presence(self, change: str, name: str) -> None:
        """Tell everyone in the room who is in it now."""
        online = list(self.names.values())
        await self.channel.publish_json({"type": "presence", "online": online, change: name})

    async def say(self, name: str, text: str) -> None:
        """Send a message to everyone in the room, the sender too, and keep it for a while."""
        message = {"id": secrets.token_hex(8), "time": time.time(), "name": name, "text": text}
        self.history.append(message)
        await self.channel.publish_json({"type": "message", **message})


@dataclass
class Demo:
    """The objects that one application's views share."""

    aio: AioHTTP
    feed: Feed
    rooms: dict[str, Room] = field(default_factory=lambda: {name: Room(name) for name in ROOMS})


def get_demo() -> Demo:
    """Return the shared objects of the current application."""
    demo: Demo = current_app.extensions["demo"]
    return demo


def get_seconds(default: float) -> float:
    """Read ``?seconds=`` as a number from 0 to 10; answer 400 to anything else."""
    text = request.args.get("seconds", "").strip()
    if not text:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= MAX_SECONDS:  # also false for NaN
        abort(400, f"seconds must be a number from 0 to {MAX_SECONDS:g}, not {text[:40]!r}.")
    return seconds


def server_sent_event(data: Mapping[str, Any], number: int | None = None) -> str:
    """Format *data* as one server-sent event with a JSON payload."""
    head = "" if number is None else f"id: {number}\n"
    return f"{head}data: {json.dumps(data)}\n\n"


def event_stream(events: AsyncIterator[str]) -> Response:
    """Wrap an async generator in a response that browsers read as server-sent events."""
    response = Response(events, mimetype="text/event-stream")  # type: ignore[arg-type]
    response.headers["Cache-Control"] = "no-cache"
    response.headers["X-Accel-Buffering"] = "no"  # asks nginx to pass each event on at once
    return response


# --- The pages --------------------------------------------------------------------------


@bp.get("/")
def index() -> str:
    """List the demos."""
    return render_template("index.html")


@bp.get("/late")
async def late() -> str:
    """Answer late: the wait holds no thread, so thousands of these can wait at once."""
    seconds = get_seconds(default=0)
    start = time.perf_counter()
    await asyncio.sleep(seconds)
    return render_template(
        "late.html",
        seconds=seconds,
        waited=time.perf_counter() - start,
        thread=threading.current_thread().name,
    )


@bp.get("/upstream/<int:number>")
async def upstream(number: int) -> dict[str, Any]:
    """Stand in for a slow service that another page calls."""
    if number not in UPSTREAM_DELAYS:
        abort(404, f"There are upstreams 1 to {len(UPSTREAM_DELAYS)}, but no {number}.")
    await asyncio.sleep(UPSTREAM_DELAYS[number])
    return {"upstream": number, "slept": UPSTREAM_DELAYS[number]}


def own_url(path: str) -> URL:
    """Build a URL on this server's own address, never from the Host header a client sent."""
    return URL.build(
        scheme="http",
        host=request.environ["SERVER_NAME"],
        port=int(request.environ["SERVER_PORT"]),
        path=path,
    )


async def timed_get(client: aiohttp.ClientSession, url: URL) -> dict[str, Any]:
    """Fetch *url* and add how long the call took to its JSON."""
    start = time.perf_counter()
    async with client.get(url, timeout=aiohttp.ClientTimeout(total=15)) as response:
        response.raise_for_status()
        answer: dict[str, Any] = await response.json()
    return {**answer, "path": url.path, "took": time.perf_counter() - start}


@bp.get("/fan-out")
async def fan_out() -> str:
    """Call every upstream at once, through the process's one shared client session."""
    client = get_demo().aio.client
    urls = [own_url(url_for(".upstream", number=number)) for number in UPSTREAM_DELAYS]
    start = time.perf_counter()
    try:
        calls = await asyncio.gather(*(timed_get(client, url) for url in urls))
    except (aiohttp.ClientError, TimeoutError) as error:
        abort(502, f"An upstream did not answer: {type(error).__name__}.")
    wall = time.perf_counter() - start
    total = sum(call["took"] for call in calls)
    return render_template("fan_out.html", calls=calls, wall=wall, total=total)


@bp.get("/events")
def events() -> str:
    """Show the live feed."""
    return render_template("events.html")


@bp.get("/events/stream")
async def events_stream() -> Response:
    """Send the feed as it happens; a viewer who reconnects is sent what it missed first."""
    feed = get_demo().feed

    async def ticks() -> AsyncIterator[str]:
        number = request.headers.get("Last-Event-ID", type=int)
        if number is None:  # a page's script cannot set that header
            number = request.args.get("last", type=int)
        missed = feed.latest
        feed.viewers += 1
        try:
            yield "retry: 2000\n\n"
            while True:
                for tick in await feed.after(number):
                    number = tick.number
                    resent = number <= missed
                    yield server_sent_event({**tick._asdict(), "resent": resent}, number)
        finally:  # the viewer has gone
            feed.viewers -= 1

    return event_stream(ticks())


@bp.get("/upload")
def upload() -> str:
    """Show the upload form."""
    return render_template("upload.html", limit=current_app.config["MAX_CONTENT_LENGTH"])


def digest(stream: IO[bytes], name: str) -> dict[str, Any]:
    """Read *stream* to its end in 64 KiB pieces, keeping none of them, and describe it."""
    sha256, size, pieces = hashlib.sha256(), 0, 0
    while piece := stream.read(PIECE):
        sha256.update(piece)
        size += len(piece)
        pieces += 1
    name = secure_filename(name) or "unnamed"
    return {"name": name, "size": size, "pieces": pieces, "sha256": sha256.hexdigest()}


@bp.post("/upload/stream")
async def upload_stream() -> dict[str, Any]:
    """Take a file as the raw request body, piece by piece while it arrives."""
    return digest(request.stream, request.args.get("name", ""))


@bp.post("/upload")
def upload_form() -> BaseResponse:
    """Take the same file from an HTML form, for browsers without JavaScript."""
    file = request.files.get("file")
    if file is None or not file.filename:
        abort(400, "Choose a file first.")
    flash("{name}: {size:,} bytes, SHA-256 {sha256}".format(**digest(file.stream, file.filename)))
    return redirect(url_for(".upload"), code=303)


@bp.get("/blocking")
def blocking() -> str:
    """Show the blocking view beside a live clock."""
    return render_template("blocking.html")


@bp.get("/blocking/sleep")
def blocking_sleep() -> dict[str, Any]:
    """Block: a plain view runs in a worker thread, so time.sleep() stops nobody else."""
    seconds = get_seconds(default=3)
    time.sleep(seconds)
    return {"slept": seconds, "thread": threading.current_thread().name}


@bp.get("/blocking/clock")
async def blocking_clock() -> Response:
    """Send the time ten times a second, from the event loop."""

    async def ticks() -> AsyncIterator[str]:
        last = due = time.perf_counter()
        while True:
            due = max(due + 0.1, last)
            await asyncio.sleep(due - time.perf_counter())
            now = time.perf_counter()
            clock = f"{time.strftime('%H:%M:%S')}.{int(time.time() * 10) % 10}"
            yield server_sent_event({"time": clock, "gap": round((now - last) * 1000)})
            last = now

    return event_stream(ticks())


@bp.get("/chat")
def chat() -> str:
    """Show the chat."""
    return render_template("chat.html", rooms=ROOMS, max_name=MAX_NAME, max_text=MAX_TEXT)


def read_name(text: str) -> str:
    """Return *text* as a name without needless spaces; ValueError says what is wrong with it."""
    name = " ".join(text.split())
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        raise ValueError(f"A name has 1 to {MAX_NAME} printable characters.")
    return name


def read_message(message: aiohttp.WSMessage) -> str:
    """Return the text that a client wants to say; ValueError says what is wrong with it."""
    try:
        data = json.loads(message.data)
    except (ValueError, RecursionError):
        raise ValueError("That was no JSON.") from None
    match data:
        case {"type": "message", "text": str(text)} if 1 <= len(text.strip()) <= MAX_TEXT:
            return text.strip()
        case {"type": "message", "text": str()}:
            raise ValueError(f"A message has 1 to {MAX_TEXT} characters.")
    raise ValueError('Send {"type": "message", "text": "..."}.')


@bp.get(f"/chat/<any({', '.join(ROOMS)}):room>/socket")
@websocket(max_message_size=8 * 1024, compress=False)
async def chat_socket(room: str) -> Any:
    """Stay in a room as ``?name=`` until the WebSocket is closed, from either side."""
    try:
        name = read_name(request.args.get("name", ""))
    except ValueError as error:
        await ws.send_json({"type": "error", "text": str(error)})
        abort(400)  # which closes the socket with 4400
    here = get_demo().rooms[room]
    async with here.visit(name) as name:
        async for message in ws:
            try:
                text = read_message(message)
            except ValueError as error:
                await ws.send_json({"type": "error", "text": str(error)})
            else:
                await here.say(name, text)


# --- What every page has ----------------------------------------------------------------


class Card(NamedTuple):
    """One demo as the start page and the navigation show it."""

    endpoint: str
    title: str
    does: str
    proves: str
    code: tuple[Callable[..., Any], ...]


CARDS = (
    Card(
        "demo.late",
        "Late response",
        "A coroutine view awaits a sleep before it answers.",
        "Waiting costs no thread.",
        (late, get_seconds),
    ),
    Card(
        "demo.fan_out",
        "Fan-out",
        "A coroutine view calls five slow upstreams at once.",
        "The page takes as long as the slowest call, not as long as all of them.",
        (fan_out, timed_get, own_url, upstream),
    ),
    Card(
        "demo.events",
        "Live events",
        "An async generator feeds every open page, tick by tick.",
        "Each piece leaves when it is yielded, and the server sees viewers leave.",
        (events_stream, Feed),
    ),
    Card(
        "demo.upload",
        "Upload",
        "A coroutine view hashes a large file while it arrives.",
        "The request body is streamed in pieces and never held in memory.",
        (upload_stream, digest, upload_form),
    ),
    Card(
        "demo.blocking",
        "Blocking view",
        "A plain view sleeps in a worker thread beside a clock that ticks ten times a second.",
        "Ordinary blocking Flask code does not stop the event loop.",
        (blocking_sleep, blocking_clock),
    ),
    Card(
        "demo.chat",
        "Chat",
        "A WebSocket view puts everyone who opens the page into a room.",
        "WebSockets are ordinary Flask views, and idle ones cost no thread.",
        (chat_socket, Room, read_name, read_message),
    ),
)


@functools.cache
def sources(endpoint: str | None) -> list[tuple[str, str]]:
    """Return the name and Python source of each piece of code behind a page."""
    code = next((card.code for card in CARDS if card.endpoint == endpoint), ())
    return [(item.__name__, inspect.getsource(item)) for item in code]


@bp.app_context_processor
def page_context() -> dict[str, Any]:
    """Give every template the list of demos, the source of its view and the versions."""
    versions = {
        "Flask": version("flask"),
        "aiohttp": version("aiohttp"),
        "Python": platform.python_version(),
    }
    return {
        "cards": CARDS,
        "sources": sources(request.endpoint),
        "versions": versions,
        "max_seconds": MAX_SECONDS,
    }


@bp.after_app_request
def security_headers(response: Response) -> Response:
    """Let pages load scripts, styles and data from this server only."""
    response.headers["Content-Security-Policy"] = (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


@bp.app_errorhandler(HTTPException)
def http_error(error: HTTPException) -> BaseResponse:
    """Show an HTTP error as a page, or as JSON to a script that asked for JSON."""
    description = error.description
    if error.code == 413:
        limit = current_app.config["MAX_CONTENT_LENGTH"]
        description = f"The file is too large: this server takes at most {limit:,} bytes."
    response = BaseResponse(headers=error.get_response().headers)
    response.status_code = error.code or 500
    kinds = ["text/html", "application/json"]
    if request.accept_mimetypes.best_match(kinds, default=kinds[0]) == "text/html":
        response.mimetype = "text/html"
        response.data = render_template("error.html", error=error, description=description)
    else:
        response.mimetype = "application/json"
        response.data = json.dumps({"error": error.name, "description": description})
    return response


# --- The application --------------------------------------------------------------------


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """Make the demo application; *config* overrides its settings."""
    app = Flask(__name__)
    app.config.update(
        SECRET_KEY=os.environ.get("SECRET_KEY") or secrets.token_hex(),
        SESSION_COOKIE_SAMESITE="Lax",
        MAX_CONTENT_LENGTH=2 * 1024**3,
    )
    app.config.update(config or {})
    app.register_blueprint(bp)

    aio = AioHTTP(app)
    feed = Feed()
    app.extensions["demo"] = Demo(aio, feed)

    @aio.cleanup_ctx
    async def run_feed() -> AsyncIterator[None]:
        task = asyncio.create_task(feed.run())
        yield
        task.cancel()

    return app


def main() -> None:
    """Serve the demo until interrupted."""
    host = os.environ.get("HOST") or "127.0.0.1"
    port = os.environ.get("PORT") or "5000"
    if not port.isdecimal() or int(port) > 65535:
        raise SystemExit(f"PORT must be a number from 0 to 65535, not {port!r}.")
    demo: Demo = create_app().extensions["demo"]
    demo.aio.run(host=host, port=int(port), debug=get_debug_flag())


if __name__ == "__main__":
    main()
