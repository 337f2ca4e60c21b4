"""gunicorn's logging settings, and that what is logged elsewhere gets into its logs."""

from __future__ import annotations

import re

import pytest

APP = """
import asyncio
import logging
import sys

from flask import Flask, request
from flask_aio_core import AioHTTP

app = Flask(__name__)
AioHTTP(app)


@app.get("/coroutine")
async def coroutine():
    return "coroutine"


@app.get("/failing-coroutine")
async def failing_coroutine():
    raise ValueError("coroutine on purpose")


@app.get("/failing-synchronous")
def failing_synchronous():
    raise ValueError("synchronous on purpose")


@app.get("/failing-stream")
async def failing_stream():
    yield "piece"
    raise ValueError("stream on purpose")


@app.get("/failing-task")
async def failing_task():
    asyncio.get_running_loop().call_soon(lambda: 1 / 0)
    return "begun"


@app.get("/log/<name>/<level>/<message>")
async def log(name, level, message):
    logger = app.logger if name == "app" else logging.getLogger(name)
    getattr(logger, level)(message)
    return "logged"


@app.get("/print")
def printing():
    print("printed to stdout")
    print("printed to stderr", file=sys.stderr)
    return "printed"


async def failing_native(request):
    raise ValueError("native on purpose")


app.aiohttp_app.router.add_get("/failing-native", failing_native)
"""

#: Tells conftest where it listens, whatever becomes of the log.
ANNOUNCE = """
def when_ready(server):
    line = "Listening at: http://127.0.0.1:%d\\n" % server.LISTENERS[0].sock.getsockname()[1]
    with open("address", "w") as file:
        file.write(line)
"""

GUNICORNS_FORMAT = r"\[[\d-]+ [\d:]+ [+-]\d+\] \[\d+\] \[ERROR\] "


@pytest.fixture
def start(gunicorn, wait_until):
    """Start gunicorn with its error log in the file error.log, or with a log level."""

    def start_quietly(*options, config="", **keywords):
        server = gunicorn(*options, app=APP, config=ANNOUNCE + config, ready=False, **keywords)
        address = server.cwd / "address"
        wait_until(lambda: address.exists() and address.read_text().endswith("\n"))
        server.output += address.read_text()
        return server

    return start_quietly


def test_errors_in_the_error_log(start, wait_until):
    """What goes wrong in views and in the server is in --error-logfile, each error once."""
    server = start("--error-logfile", "error.log")
    log = server.cwd / "error.log"
    assert server.get("/failing-coroutine").status == 500
    assert server.get("/failing-synchronous").status == 500
    assert server.get("/failing-native").status == 500
    with server.connect() as client:
        client.sendall(b"GET /failing-stream HTTP/1.1\r\nHost: here\r\n\r\n")
        while client.recv(65536):
            pass
    assert server.get("/failing-task").text == "begun"
    # Flask's own logger writes to wsgi.errors, in Flask's format.
    wait_until(lambda: "division by zero" in log.read_text())
    text = log.read_text()
    assert re.search(r"ERROR in app: Exception on /failing-coroutine \[GET\]\nTraceback", text)
    assert re.search(r"ERROR in app: Exception on /failing-synchronous \[GET\]\nTraceback", text)
    # Those of the libraries are in gunicorn's format.
    assert re.search(GUNICORNS_FORMAT + r"Error on GET /failing-stream\nTraceback", text)
    assert re.search(GUNICORNS_FORMAT + r"Exception in callback .*\n(.*\n)?Traceback", text)
    assert re.search(GUNICORNS_FORMAT + r".*\nTraceback[^[]*ValueError: native on purpose", text)
    for error in ("coroutine", "synchronous", "stream", "native"):
        assert text.count(f"ValueError: {error} on purpose") == 1
    for name in ("aiohttp.client", "asyncio", "flask_aio_core", "flask_aio_ws"):
        server.get(f"/log/{name}/error/by-{name}")
        line = re.compile(GUNICORNS_FORMAT + f"by-{name}\n")
        wait_until(lambda: line.search(log.read_text()))  # noqa: B023
        assert log.read_text().count(f"by-{name}") == 1
    assert "on purpose" not in server.output


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("debug", {"debug", "info", "warning", "error"}),
        ("warning", {"warning", "error"}),
        ("error", {"error"}),
    ],
)
def test_log_level(start, level, written):
    """--log-level decides about the messages of gunicorn, the worker and the libraries."""
    server = start("--log-level", level)
    for one in ("warning", "error"):
        server.get(f"/log/flask_aio_core/{one}/library-{one}")
    server.exchange(b"GET / HTTP/1.1\r\nBad Header: x\r\n\r\n")
    server.stop()
    assert set(re.findall(r"library-(\w+)", server.output)) == written & {"warning", "error"}
    assert ("[WARNING] Invalid request from" in server.output) == ("warning" in written)
    assert ("Booting worker" in server.output) == ("info" in written)
    assert ("[DEBUG] GET /log" in server.output) == ("debug" in written)


def test_logger_class(start, wait_until):
    """A logger_class has its access() called, access log or not, and may add atoms."""
    logger = """
from gunicorn.glogging import Logger

class Counting(Logger):
    def access(self, resp, req, environ, request_time):
        super().access(resp, req, environ, request_time)
        self.error("seen %s %s %s %s %d %s %s", req.method, req.uri, resp.status, resp.sent,
                   request_time.total_seconds() >= 0, environ["PATH_INFO"],
                   dict(resp.headers)["Content-Type"])

    def atoms(self, resp, req, environ, request_time):
        atoms = super().atoms(resp, req, environ, request_time)
        return {**atoms, "ours": req.path.upper()}
"""
    options = ("--logger-class", "ourlogger.Counting")
    server = start(*options, files={"ourlogger.py": logger})
    server.get("/coroutine?a=1")
    server.wait_for("seen GET /coroutine?a=1 200 OK 9 1 /coroutine text/html; charset=utf-8")
    assert "/COROUTINE" not in server.output
    server.stop()
    (server.cwd / "address").unlink()
    server = start(*options, "--access-logfile", "-", "--access-logformat", "<%(ours)s %(s)s>")
    server.get("/coroutine")
    server.wait_for("</COROUTINE 200>")
    server.wait_for("seen GET /coroutine 200 OK")


def test_logger_class_with_atoms_only(gunicorn):
    """A logger_class may change the atoms only; without an access log it has nothing to do."""
    logger = """
from gunicorn.glogging import Logger

class Counting(Logger):
    def atoms(self, *args):
        print("atoms called", flush=True)
        return {**super().atoms(*args), "ours": "ours"}
"""
    options = ("--logger-class", "ourlogger.Counting", "--access-logformat", "<%(ours)s %(U)s>")
    server = gunicorn(*options, app=APP, files={"ourlogger.py": logger})
    server.get()
    server.stop()
    assert "atoms called" not in server.output
    server = gunicorn(*options, "--access-logfile", "-", app=APP)
    server.get()
    server.wait_for("<ours /coroutine>")


def test_logconfig_dict(start, wait_until):
    """With logconfig_dict, the libraries' messages go where the root logger's go, and only there.

    The access log is written by its logger.
    """
    server = start(
        config="""
def _to(name):
    return {"class": "logging.FileHandler", "filename": name + ".log", "formatter": "ours"}

logconfig_dict = {
    "version": 1,
    "formatters": {"ours": {"format": "<%(name)s %(levelname)s %(message)s>"}},
    "handlers": {name: _to(name) for name in ("root", "error", "access")},
    "root": {"level": "INFO", "handlers": ["root"]},
    "loggers": {
        "gunicorn.error": {"level": "INFO", "handlers": ["error"], "propagate": False},
        "gunicorn.access": {"level": "INFO", "handlers": ["access"], "propagate": False},
    },
}
"""
    )
    server.get("/log/flask_aio_core/error/one")
    server.get("/log/aiohttp.client/info/two")
    server.get("/log/app/error/three")
    server.get("/coroutine")
    access = server.cwd / "access.log"
    wait_until(lambda: access.read_text().count("<gunicorn.access INFO 127.0.0.1 - - [") == 4)
    assert '"GET /coroutine HTTP/1.1" 200 9' in access.read_text()
    root = (server.cwd / "root.log").read_text()
    assert "<flask_aio_core ERROR one>\n<aiohttp.client INFO two>\n<app ERROR three>" in root
    error = (server.cwd / "error.log").read_text()
    assert "<gunicorn.error INFO Booting worker with pid" in error
    assert not {"one>", "two>"} & set(error.split())


LOG_INI = """
[loggers]
keys = root, error, access
[handlers]
keys = file
[formatters]
keys = ours
[logger_root]
level = INFO
handlers = file
[logger_error]
qualname = gunicorn.error
level = INFO
handlers = file
propagate = 0
[logger_access]
qualname = gunicorn.access
level = INFO
handlers = file
propagate = 0
[handler_file]
class = FileHandler
args = ("ours.log",)
formatter = ours
[formatter_ours]
format = <%(name)s %(levelname)s %(message)s>
"""
LOG_JSON = """{
    "version": 1,
    "formatters": {"ours": {"format": "<%(name)s %(levelname)s %(message)s>"}},
    "handlers": {
        "file": {"class": "logging.FileHandler", "filename": "ours.log", "formatter": "ours"}
    },
    "root": {"level": "INFO", "handlers": ["file"]},
    "loggers": {
        "gunicorn.error": {"level": "INFO", "handlers": ["file"], "propagate": false},
        "gunicorn.access": {"level": "INFO", "handlers": ["file"], "propagate": false}
    }
}"""


@pytest.mark.parametrize(
    ("option", "text"), [("--log-config", LOG_INI), ("--log-config-json", LOG_JSON)]
)
def test_logconfig_file(start, wait_until, option, text):
    """A file may configure logging instead: each message is there once, the libraries' too."""
    server = start(option, "ours", files={"ours": text})
    server.get("/log/flask_aio_core/error/one")
    server.get("/log/aiohttp.client/info/two")
    server.get("/log/app/error/three")
    log = server.cwd / "ours.log"
    wait_until(lambda: log.read_text().count("<gunicorn.access INFO 127.0.0.1 - - [") == 3)
    for message in ("<flask_aio_core ERROR one>", "<aiohttp.client INFO two>", "<app ERROR three>"):
        assert log.read_text().count(message) == 1
    assert "<gunicorn.error INFO Booting worker with pid" in log.read_text()


def test_apps_own_logging(start):
    """An app that has configured logging itself gets the libraries' messages its own way."""
    app = APP.replace(
        "app = Flask(__name__)",
        'logging.basicConfig(filename="own.log", level="INFO")\napp = Flask(__name__)',
        1,
    )
    server = start("--error-logfile", "error.log", files={"own.py": app}, name="own:app")
    server.get("/log/flask_aio_core/info/one")
    assert "INFO:flask_aio_core:one\n" in (server.cwd / "own.log").read_text()
    assert "one" not in (server.cwd / "error.log").read_text().split()


@pytest.mark.parametrize("capture", [True, False])
def test_capture_output(start, wait_until, capture):
    """With --capture-output, and only with it, print goes to the error log."""
    server = start("--error-logfile", "error.log", *(["--capture-output"] if capture else []))
    server.get("/print")
    log = server.cwd / "error.log"
    for line in ("printed to stdout\n", "printed to stderr\n"):
        if capture:
            wait_until(lambda: line in log.read_text())  # noqa: B023
            assert line not in server.output
        else:
            server.wait_for(line)
            assert line not in log.read_text()
