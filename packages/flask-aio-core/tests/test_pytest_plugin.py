"""The fixtures as pytest finds them: in a process of its own, every warning an error."""

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


@pytest.fixture(scope={scope!r})
def app():
    app = Flask("shop")

    @app.get("/")
    async def index():
        return "Hello"

    return app


def pytest_sessionfinish(session):
    gc.collect()
    assert threading.enumerate() == [threading.main_thread()]
"""

PLAIN = """
import urllib.request


def test_first(aio_live_server):
    with urllib.request.urlopen(aio_live_server.url) as response:
        assert response.read() == b"Hello"


def test_second(aio_live_server):
    test_first(aio_live_server)
"""

ASYNC = """
async def test_client(aio_client):
    async with aio_client() as client:
        async with client.get("/") as response:
            assert await response.text() == "Hello"


async def test_again(aio_client):
    await test_client(aio_client)


async def test_live_server(aio_live_server):
    import aiohttp

    async with aiohttp.request("GET", aio_live_server.url) as response:
        assert await response.text() == "Hello"
"""

BY_HAND = """
import asyncio

import test_async


def test_in_a_loop_of_ones_own(aio_client):
    asyncio.run(test_async.test_client(aio_client))
"""


#: Options without which other plugins would take part.
ALONE = ("-p", "no:asyncio", "-p", "no:aiohttp")


@pytest.fixture
def run_pytest(tmp_path):
    """Run pytest on files; return what it printed."""

    def run(files, *options, status=0):
        for name, text in files.items():
            (tmp_path / name).write_text(text, encoding="utf-8")
        environ = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
        command = [sys.executable, "-W", "error", "-m", "pytest", "-W", "error", "-p", "no:xdist"]
        done = subprocess.run(
            [*command, *options],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.mark.parametrize("scope", ["function", "session"])
def test_the_fixtures_need_no_other_plugin(run_pytest, scope):
    """Plain tests, and coroutines that are run by hand, with an app for each test or for all."""
    conftest = CONFTEST.format(scope=scope)
    files = {"conftest.py": conftest, "test_plain.py": PLAIN, "test_by_hand.py": BY_HAND}
    output = run_pytest(
        {**files, "test_async.py": ASYNC}, *ALONE, "test_plain.py", "test_by_hand.py"
    )
    assert "3 passed" in output


@pytest.mark.parametrize("scope", ["function", "session"])
@pytest.mark.parametrize("options", [[], ["-p", "no:aiohttp"]], ids=["aiohttp", "asyncio"])
def test_the_fixtures_work_in_coroutines(run_pytest, scope, options):
    """Under pytest-aiohttp and pytest-asyncio."""
    files = {"conftest.py": CONFTEST.format(scope=scope), "test_async.py": ASYNC}
    mode = ["-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function"]
    assert "3 passed" in run_pytest(files, *options, *mode)


def test_a_start_hook_that_fails_is_the_error_of_the_test(run_pytest):
    """The report shows where it failed."""
    conftest = """
import pytest
from flask import Flask
from flask_aio_core import AioHTTP


@pytest.fixture
def app():
    app = Flask("shop")

    @AioHTTP(app).on_startup
    async def connect():
        raise LookupError("no such table")

    return app
"""
    output = run_pytest({"conftest.py": conftest, "test_plain.py": PLAIN}, *ALONE, status=1)
    assert "2 errors" in output
    assert 'raise LookupError("no such table")' in output


def test_a_project_without_the_fixture_app_is_told(run_pytest):
    """pytest's own words for it."""
    output = run_pytest({"test_plain.py": PLAIN}, *ALONE, status=1)
    assert "fixture 'app' not found" in output


def test_the_plugin_costs_a_project_nothing_that_does_not_use_it(run_pytest):
    """pytest loads it everywhere; neither Flask nor aiohttp comes with it."""
    text = """
import sys


def test_imports():
    assert "pytest_flask_aio_core" in sys.modules
    assert not {"flask", "aiohttp", "greenlet", "flask_aio_core"} & set(sys.modules)
"""
    run_pytest({"test_imports.py": text}, *ALONE)


def test_pytest_is_not_needed_to_run_an_app():
    """Only the plugin itself imports it, which nothing but pytest loads."""
    code = (
        "import sys; sys.modules['pytest'] = None; import flask_aio_core.testing,"
        " flask_aio_core.serving; assert 'pytest_flask_aio_core' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
