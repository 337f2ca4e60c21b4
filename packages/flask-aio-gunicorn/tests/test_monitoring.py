"""What flask-aio adds to gunicorn's access log, and the gauges of a worker."""

from __future__ import annotations

import json
import re

import pytest

APP = """
import asyncio, dataclasses, logging, os, time
from aiohttp import web
from flask import Flask
from flask_aio_core import AioHTTP, RequestIDFilter

app = Flask(__name__)
app.config.from_prefixed_env()
aio = AioHTTP(app)
handler = logging.StreamHandler()
handler.addFilter(RequestIDFilter())
handler.setFormatter(logging.Formatter("APP [%(request_id)s] %(message)s"))
app.logger.addHandler(handler)
app.logger.propagate = False


@app.get("/coroutine")
async def coroutine():
    await asyncio.sleep(0)
    app.logger.warning("coroutine")
    return "coroutine"


@app.get("/synchronous")
def synchronous():
    app.logger.warning("synchronous")
    return "synchronous"


@app.get("/gauges")
async def gauges():
    return dataclasses.asdict(aio.gauges()) | {"pid": os.getpid()}


async def native(request):
    return web.Response(text="native")


app.aiohttp_app.router.add_get("/native", native)
"""

FORMAT = (
    'LINE {"status": "%(s)s", "bytes": "%(B)s", "microseconds": "%(D)s",'
    ' "side": "%({flask_aio.side}e)s", "id": "%({flask_aio.request_id}e)s",'
    ' "sent": "%({x-request-id}o)s"}'
)


@pytest.fixture(scope="module")
def server(shared_gunicorn):
    """A server that logs lines of JSON."""
    return shared_gunicorn(
        "--access-logfile",
        "-",
        "--access-logformat",
        FORMAT,
        "--threads",
        "7",
        app=APP,
        env={"FLASK_AIO_REQUEST_ID": "accept"},
    )


@pytest.mark.parametrize(
    ("path", "side"), [("/coroutine", "loop"), ("/synchronous", "thread"), ("/native", "-")]
)
def test_side_and_request_id_are_atoms(server, path, side):
    """gunicorn's format can have the side and the id; a route of aiohttp's own has neither."""
    response = server.get(path, X_Request_Id=f"id{path}")
    server.wait_for(re.compile(rf'LINE .*"side": "{side}".*\n'))
    lines = [json.loads(line) for line in re.findall(r"LINE (.*)", server.output)]
    (entry,) = [one for one in lines if one["side"] == side]
    assert int(entry.pop("microseconds")) > 0
    expected = "-" if side == "-" else f"id{path}"
    assert entry == {
        "status": "200",
        "bytes": str(len(response.body)),
        "side": side,
        "id": expected,
        "sent": expected,
    }
    if side != "-":
        server.wait_for(f"APP [id{path}] {path[1:]}")


def test_a_refused_request_has_its_id(gunicorn):
    """Also what the worker itself refuses can be found by its id."""
    server = gunicorn(
        "--header-map",
        "refuse",
        "--access-logfile",
        "-",
        "--access-logformat",
        FORMAT,
        app=APP,
        env={"FLASK_AIO_REQUEST_ID": "make"},
    )
    response = server.exchange(b"GET /coroutine HTTP/1.1\r\nHost: here\r\nA_b: 1\r\n\r\n")
    assert response.status == 400
    server.wait_for(re.compile(r"LINE .*\n"))
    (line,) = re.findall(r"LINE (.*)", server.output)
    entry = json.loads(line)
    assert (entry["status"], entry["side"]) == ("400", "-")
    assert entry["id"] == response.headers["X-Request-ID"] == entry["sent"]
    assert re.fullmatch("[0-9a-f]{32}", entry["id"])


def test_the_gauges_are_those_of_the_worker(server):
    """The answering worker counts the request that asks, and knows gunicorn's setting."""
    gauges = server.get("/gauges").json
    assert gauges["pid"] == server.workers()[0]
    assert (gauges["requests_on_loop"], gauges["threads_limit"]) == (1, 7)


LOGGER = """
import json
from gunicorn.glogging import Logger


class JSONLogger(Logger):
    def access(self, resp, req, environ, request_time):
        atoms = self.atoms(resp, req, environ, request_time)
        names = ("s", "B", "M", "{flask_aio.side}e", "{flask_aio.request_id}e")
        self.access_log.info("JSON " + json.dumps({name: str(atoms.get(name)) for name in names}))
"""


def test_a_logger_class_of_the_user(gunicorn):
    """gunicorn's logger_class keeps the access log to itself, and finds the same atoms."""
    server = gunicorn(
        "--access-logfile",
        "-",
        app=APP,
        files={"loggers.py": LOGGER},
        config="logger_class = 'loggers.JSONLogger'",
        env={"FLASK_AIO_REQUEST_ID": "accept", "PYTHONPATH": "."},
    )
    server.get("/synchronous", X_Request_Id="j-1")
    server.wait_for(re.compile(r"JSON .*\n"))
    (line,) = re.findall(r"JSON (.*)", server.output)
    entry = json.loads(line)
    assert int(entry.pop("M")) >= 0
    assert entry == {
        "s": "200",
        "B": "11",
        "{flask_aio.side}e": "thread",
        "{flask_aio.request_id}e": "j-1",
    }
