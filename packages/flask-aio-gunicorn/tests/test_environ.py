"""What gunicorn puts into the environ, and that nobody keeps it."""

from __future__ import annotations

import http.client
import json

import pytest

APP = """
import gc

from aiohttp import web
from flask import Flask, request, send_file
from flask_aio_core import AioHTTP

app = Flask(__name__)
AioHTTP(app)


@app.route("/environ")
async def environ():
    return {key: value for key, value in request.environ.items()
            if isinstance(value, (str, bool))}


@app.get("/synchronous")
def synchronous():
    return {key: value for key, value in request.environ.items()
            if isinstance(value, (str, bool))}


@app.get("/errors")
async def errors():
    stream = request.environ["wsgi.errors"]
    stream.write("written \\u00e4\\n")
    stream.writelines(["several\\n", "lines\\n"])
    stream.flush()
    print("printed", file=stream)
    app.logger.error("app.logger")
    return type(stream).__name__


@app.get("/file")
def file():
    return send_file("content.bin")


@app.get("/wrapper")
def wrapper():
    return str("wsgi.file_wrapper" in request.environ)


@app.get("/no-garbage-collection")
def no_garbage_collection():
    gc.collect()
    gc.disable()
    return "off"


@app.get("/alive")
def alive():
    objects = gc.get_objects()
    return {
        "environs": sum(type(one) is dict and "wsgi.input" in one for one in objects),
        "requests": sum(isinstance(one, web.BaseRequest) for one in objects),
    }


async def native(request):
    return web.Response(text="native")


app.aiohttp_app.router.add_get("/native", native)
"""

HOOK = """
def post_request(worker, req, environ, resp):
    assert environ["PATH_INFO"]
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_constants(gunicorn, workers):
    """The server is gunicorn's; whether there are several processes depends on the settings."""
    server = gunicorn("-w", str(workers), app=APP)
    expected = server.get("/environ").json["SERVER_SOFTWARE"]
    assert expected.startswith("gunicorn/")
    for path in ("/environ", "/synchronous"):
        environ = server.get(f"{path}?a=%20b").json
        assert environ["SERVER_SOFTWARE"] == expected
        assert environ["wsgi.multiprocess"] is (workers > 1)
        assert environ["wsgi.multithread"] is True
        assert environ["wsgi.run_once"] is False
        assert environ["RAW_URI"] == f"{path}?a=%20b"
        assert (environ["PATH_INFO"], environ["QUERY_STRING"]) == (path, "a=%20b")
        assert environ["SERVER_PORT"] == str(server.port)
        assert environ["REMOTE_ADDR"] == environ["SERVER_NAME"] == "127.0.0.1"


@pytest.mark.parametrize("file", ["error.log", "-"])
def test_errors(gunicorn, wait_until, file):
    """wsgi.errors is where the error log is, once each."""
    server = gunicorn("--error-logfile", file, app=APP, ready=file == "-")
    log = server.cwd / "error.log"
    if file != "-":
        wait_until(lambda: log.exists() and "Booting worker" in log.read_text())
        server.output = log.read_text()  # It tells the address.
    assert server.get("/errors").text == "WSGIErrorsWrapper"

    def text():
        return server.output if file == "-" else log.read_text()

    wait_until(lambda: "app.logger" in text())
    for line in ("written ä", "several", "lines", "printed"):
        assert text().splitlines().count(line) == 1
    assert text().count("ERROR in app: app.logger") == 1


@pytest.mark.parametrize("sendfile", [True, False])
def test_sendfile(gunicorn, sendfile):
    """A file arrives whole, also with --no-sendfile, which does without wsgi.file_wrapper."""
    content = "0123456789" * 200_000
    server = gunicorn(
        *([] if sendfile else ["--no-sendfile"]), app=APP, files={"content.bin": content}
    )
    response = server.get("/file")
    assert response.headers["Content-Length"] == str(len(content))
    assert response.text == content
    response = server.get("/file", Range="bytes=5-14")
    assert (response.status, response.text) == (206, content[5:15])
    assert server.get("/wrapper").text == str(sendfile)


@pytest.mark.parametrize(
    ("options", "config"),
    [
        (("--access-logfile", "access.log"), None),
        ((), HOOK),
        (("--access-logfile", "access.log"), HOOK),
    ],
    ids=["access log", "post_request", "both"],
)
def test_nothing_is_kept(gunicorn, options, config):
    """No environ and no request outlives its turn, without the garbage collector's help."""
    server = gunicorn(*options, app=APP, config=config)
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)

    def get(path):
        client.request("GET", path)
        response = client.getresponse()
        assert response.status == (404 if path == "/nowhere" else 200)
        return response.read().decode()

    paths = ["/environ", "/synchronous", "/native", "/wrapper"]
    for path in paths:  # What is made once and kept.
        get(path)
    get("/no-garbage-collection")
    for _ in range(125):
        for path in paths:
            get(path)
    # This request's own; the thread of another may be about to let go of its.
    assert max(json.loads(get("/alive")).values()) < 10
    client.close()
    assert "Traceback" not in server.output
