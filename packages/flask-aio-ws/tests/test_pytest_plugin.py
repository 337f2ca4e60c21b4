"""The fixture as pytest finds it: in a process of its own, every warning an error."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CONFTEST = """
import gc
import threading

import pytest
from flask import Flask
from flask_aio_ws import websocket, ws


@pytest.fixture(scope={scope!r})
def app():
    app = Flask("shop")

    @app.route("/echo")
    @websocket
    def echo():
        for message in ws:
            ws.send(message)

    return app


def pytest_sessionfinish(session):
    gc.collect()
    assert threading.enumerate() == [threading.main_thread()]
"""

TESTS = """
def test_left_open(aio_websocket):
    sockets = [aio_websocket("/echo") for _ in range(2)]
    for socket in sockets:
        socket.send("hello")
        assert socket.receive() == "hello"


def test_with(aio_websocket):
    with aio_websocket("/echo", headers={"X-Test": "1"}) as socket:
        socket.send("hello")
        assert socket.receive() == "hello"
    assert socket.close_code == 1000
"""

ASYNC = """
from flask_aio_ws.testing import connect_async


async def test_client(aio_client):
    async with aio_client() as client, connect_async(client, "/echo") as socket:
        await socket.send("hello")
        assert await socket.receive() == "hello"


async def test_blocking_client_in_a_coroutine(aio_websocket):
    socket = aio_websocket("/echo")
    socket.send("hello")
    assert socket.receive() == "hello"
"""


def run_pytest(directory, *options):
    environ = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
    command = [sys.executable, "-W", "error", "-m", "pytest", "-W", "error", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, *options],
        cwd=directory,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("scope", ["function", "session"])
def test_the_fixture_needs_no_other_plugin(tmp_path, scope):
    """Sockets that a test leaves open are closed before the server stops."""
    (tmp_path / "conftest.py").write_text(CONFTEST.format(scope=scope), encoding="utf-8")
    (tmp_path / "test_plain.py").write_text(TESTS, encoding="utf-8")
    assert "2 passed" in run_pytest(tmp_path, "-p", "no:asyncio", "-p", "no:aiohttp")


def test_coroutines(tmp_path):
    """Under pytest-asyncio, with the client for coroutines and with the other."""
    (tmp_path / "conftest.py").write_text(CONFTEST.format(scope="function"), encoding="utf-8")
    (tmp_path / "test_async.py").write_text(ASYNC, encoding="utf-8")
    mode = ["-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function"]
    assert "2 passed" in run_pytest(tmp_path, *mode)


def test_the_plugin_costs_a_project_nothing_that_does_not_use_it(tmp_path):
    """pytest loads it everywhere; neither Flask nor aiohttp comes with it."""
    text = """
import sys


def test_imports():
    assert "pytest_flask_aio_ws" in sys.modules
    assert not {"flask", "aiohttp", "flask_aio_core", "flask_aio_ws"} & set(sys.modules)
"""
    (tmp_path / "test_imports.py").write_text(text, encoding="utf-8")
    run_pytest(tmp_path, "-p", "no:asyncio", "-p", "no:aiohttp")
