"""gunicorn's dirty workers, called from views."""

from __future__ import annotations

import re

import pytest

TASKS = """
import os
from gunicorn.dirty.app import DirtyApp

class Tasks(DirtyApp):
    def __call__(self, action, *args, **kwargs):
        return {"result": args[0] * 2, "pid": os.getpid()}
"""

APP = """
import os
from flask import Flask
from gunicorn.dirty import get_dirty_client, get_dirty_client_async

app = Flask(__name__)

@app.get("/coroutine")
async def coroutine():
    client = await get_dirty_client_async()
    answer = await client.execute_async("tasks:Tasks", "double", 21)
    return {**answer, "worker": os.getpid()}

@app.get("/synchronous")
def synchronous():
    answer = get_dirty_client().execute("tasks:Tasks", "double", 21)
    return {**answer, "worker": os.getpid()}
"""


@pytest.mark.parametrize("worker", ["AioWorker", "AioUVLoopWorker"])
def test_views_call_dirty_workers(gunicorn, worker):
    """Both kinds of views get the answer of a process that is no worker of ours."""
    if worker == "AioUVLoopWorker":
        pytest.importorskip("uvloop")
    server = gunicorn(
        *("--dirty-app", "tasks:Tasks", "--dirty-workers", "1"),
        app=APP,
        files={"tasks.py": TASKS},
        worker=f"flask_aio_gunicorn.{worker}",
    )
    server.wait_for(re.compile(r"Dirty worker \d+ listening"))
    for path in ("/coroutine", "/synchronous"):
        response = server.get(path)
        assert response.status == 200, server.output
        answer = response.json
        assert answer["result"] == 42
        assert answer["pid"] != answer["worker"]
    assert server.stop() == 0
