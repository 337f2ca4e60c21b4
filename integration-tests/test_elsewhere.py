"""The same app under servers that are not ours, and in processes that fork."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

APP = """
import sys
sys.modules["asgiref"] = None  # What plain Flask needs for coroutine views cannot be imported.
import asyncio, os, threading
from flask import Flask, Response, request, send_file
from flask_aio_core import AioHTTP, await_

app = Flask(__name__)
aio = AioHTTP(app)

@aio.cleanup_ctx
async def context():
    print("hook: start", threading.current_thread().name, flush=True)
    yield
    print("hook: clean-up", flush=True)

@app.after_request
async def after(response):
    await asyncio.sleep(0)
    response.headers["X-After"] = "after"
    return response

@app.get("/")
async def index():
    await asyncio.sleep(0)
    return f"index {request.args.get('name')}"

@app.get("/sync")
def sync():
    return await_(asyncio.sleep(0, "sync"))

@app.get("/stream")
async def stream():
    async def chunks():
        for number in range(3):
            await asyncio.sleep(0)
            yield f"{request.path}{number} "
    return chunks()

@app.get("/file")
async def file():
    return send_file(__file__)

@app.get("/fail")
async def fail():
    await asyncio.sleep(0)
    raise LookupError("gone")

@app.get("/client")
async def client():
    return str(aio.client is aio.client)

@app.get("/pid")
async def pid():
    return f"{os.getpid()} {os.getppid()}"
"""
USED_AT_IMPORT = (
    APP
    + """
assert app.test_client().get("/sync").text == "sync"  # Starts the private loop before the fork.
"""
)
#: Flask's own app, served by aiohttp's worker for gunicorn.
AIOHTTP_APP = (
    APP.replace("app = Flask", "flask_app = Flask")
    .replace("AioHTTP(app)", "AioHTTP(flask_app)")
    .replace("@app.", "@flask_app.")
    + "\napp = flask_app.aiohttp_app\n"
)
WSGIREF = (
    APP
    + """
if __name__ == "__main__":
    import signal
    from wsgiref.simple_server import make_server
    with make_server("127.0.0.1", 0, app) as server:
        # Not KeyboardInterrupt: wsgiref logs and forgets one that comes during a request.
        stop = threading.Thread(target=server.shutdown)
        signal.signal(signal.SIGINT, lambda *_: stop.start())
        print(f" * Running on http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()
"""
)


def gunicorn(*options: str) -> list[str]:
    return ["-m", "gunicorn", "app:app", "--bind", "127.0.0.1:0", "--no-control-socket", *options]


def check_all(server: Any) -> None:
    """Ask for each page."""
    assert server.get("/?name=anna") == (200, "index anna")
    assert server.get("/sync") == (200, "sync")
    assert server.get("/stream") == (200, "/stream0 /stream1 /stream2 ")
    assert server.get("/file") == (200, (server.cwd / "app.py").read_text())
    assert server.get("/client") == (200, "True")
    assert server.get("/fail")[0] == 500
    server.wait_for("LookupError: gone")
    assert server.get("/?name=berta") == (200, "index berta")


@pytest.mark.parametrize("options", [(), ("--preload",), ("--threads", "2")])
def test_gunicorn_worker_serves_coroutine_views(start, options):
    """gunicorn's own workers serve the app; the start and clean-up hooks run in the worker."""
    server = start(*gunicorn(*options), app=APP, warnings="default")
    check_all(server)
    assert server.output.count("hook: start flask-aio-private-loop") == 1
    assert server.stop(signal.SIGTERM) == 0
    assert server.output.count("hook: clean-up") == 1


def test_gunicorn_preload_of_app_that_used_its_loop_before_the_fork(start):
    """A private loop that was started before the fork is not used after it: no worker hangs."""
    server = start(*gunicorn("--preload"), app=USED_AT_IMPORT, warnings="default")
    check_all(server)
    assert server.output.count("hook: start flask-aio-private-loop") == 2


def test_wsgiref_serves_coroutine_views(start):
    """The standard library's WSGI server serves the app."""
    server = start(app=WSGIREF)
    check_all(server)
    assert server.stop() == 0
    assert "hook: clean-up" in server.output


def test_gunicorn_with_aiohttps_worker_serves_aiohttp_app(start):
    """aiohttp's GunicornWebWorker takes app.aiohttp_app."""
    options = ("-k", "aiohttp.worker.GunicornWebWorker")
    server = start(*gunicorn(*options), app=AIOHTTP_APP, warnings="default")
    check_all(server)
    assert "hook: start MainThread" in server.output
    assert server.stop(signal.SIGTERM) == 0
    assert "hook: clean-up" in server.output


def run(tmp_path: Path, code: str) -> Any:
    """Run a script that imports the app, to its end."""
    (tmp_path / "app.py").write_text(APP)
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_clean_up_hooks_run_at_exit(tmp_path):
    """An app that was used without a server cleans up when the process ends."""
    done = run(tmp_path, "from app import app; print(app.test_client().get('/sync').text)")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "hook: start flask-aio-private-loop",
        "sync",
        "hook: clean-up",
    ]


def test_shared_client_is_closed_at_exit(tmp_path):
    """The shared HTTP client leaves no warning of an unclosed session."""
    done = run(tmp_path, "from app import app; print(app.test_client().get('/client').text)")
    assert (done.returncode, done.stderr) == (0, "")


def test_forked_child_gets_a_private_loop_of_its_own(tmp_path):
    """After os.fork the child starts the hooks anew, on its own loop; each process cleans up."""
    code = (
        "import os, sys\n"
        "from app import app\n"
        "app.test_client().get('/sync')\n"
        "child = os.fork()\n"
        "print('child' if child == 0 else 'parent', app.test_client().get('/sync').text)\n"
        "sys.stdout.flush()\n"
        "if child:\n"
        "    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0\n"
    )
    done = run(tmp_path, code)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert {"child sync", "parent sync"} <= set(lines)
    assert lines.count("hook: start flask-aio-private-loop") == 2
    assert lines.count("hook: clean-up") == 2


def test_import_starts_no_thread(tmp_path):
    """Neither import nor AioHTTP(app) starts a thread, so forking afterwards is safe."""
    done = run(tmp_path, "import app, threading; print(threading.active_count())")
    assert done.stdout.strip() == "1"


def test_test_client_inside_running_loop_of_a_script(tmp_path):
    """Flask's test client works inside asyncio.run, which then ends without leftovers."""
    code = (
        "import asyncio\n"
        "from app import app\n"
        "async def main():\n"
        "    return app.test_client().get('/stream').text\n"
        "print(asyncio.run(main()))\n"
    )
    done = run(tmp_path, code)
    assert (done.returncode, done.stderr) == (0, "")
    assert "/stream0 /stream1 /stream2" in done.stdout
