"""The shop under each server, on each driver: the database wherever a Flask app can use it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import aiohttp
import pytest

SHOP = Path(__file__).with_name("shop.py").read_text(encoding="utf-8")
KINDS = ["coroutine", "synchronous"]
#: The shop leaves it to the end of the process to close its connections, as most apps do, and the
#: env.py of Flask-Migrate calls a deprecated method of Flask-SQLAlchemy.
WARNINGS = "error,ignore::ResourceWarning,ignore::DeprecationWarning"


@pytest.fixture
def flask(tmp_path, database_url):
    """Run a command of the shop's CLI to its end; return what it has printed."""

    def run(*arguments: str, stdin: str = "") -> str:
        (tmp_path / "shop.py").write_text(SHOP, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "flask", "--app", "shop", *arguments],
            cwd=tmp_path,
            env=os.environ | {"DATABASE_URL": database_url, "PYTHONWARNINGS": WARNINGS},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
        return done.stdout

    return run


@pytest.fixture(params=["aio.run", "flask aio run", "gunicorn", "gunicorn --preload"])
def server(request, start, gunicorn, flask, database_url):
    """A server of the shop, whose tables its own command has made."""
    flask("fill", "ada", "bob")
    options: dict[str, Any] = {"env": {"DATABASE_URL": database_url}, "warnings": WARNINGS}
    match request.param:
        case "aio.run":
            return start("-c", "import shop; shop.aio.run(port=0)", **options)
        case "flask aio run":
            return start("-m", "flask", "--app", "shop", "aio", "run", "--port", "0", **options)
        case "gunicorn":
            return gunicorn("-w", "2", name="shop:app", **options)
        case _:
            return gunicorn("-w", "2", "--preload", name="shop:app", **options)


async def visit(session: aiohttp.ClientSession, kind: str, name: str) -> set[str]:
    """Use the database as one user in every place of a request; return who has answered."""
    pids = set()

    async def ask(method: str, path: str, **options: Any) -> str:
        async with session.request(method, path, **options) as response:
            assert response.status == 200, path
            assert response.headers["X-Users"] == "2 2 2"
            pids.add(response.headers["X-Pid"])
            return await response.text()

    async with session.post(f"/login/{name}") as response:
        cookie = SimpleCookie(response.headers["Set-Cookie"])["session"].value
    user = {"headers": {"Cookie": f"session={cookie}"}}

    assert await ask("GET", f"/{kind}/me", **user) == name
    assert await ask("POST", f"/{kind}/items/{kind}-1", **user) == f'["{kind}-1"]\n'
    assert await ask("POST", f"/{kind}/items/{kind}-2", **user) == f'["{kind}-1","{kind}-2"]\n'
    page = await ask("GET", f"/{kind}/page")
    assert f"{name}: {kind}-1 {kind}-2;" in page
    assert page.endswith(" 2")
    assert await ask("GET", f"/{kind}/stream") == "ada\nbob\n"
    async with session.ws_connect(f"/{kind}/socket") as socket:
        for _ in range(2):
            await socket.send_str(name)
            assert await socket.receive_json() == [f"{kind}-1", f"{kind}-2"]
    return pids


def test_every_place_of_a_request(server):
    """Hooks, user_loader, views, templates, streams and sockets of both kinds query and commit."""

    async def run() -> None:
        async with aiohttp.ClientSession(
            server.url, cookie_jar=aiohttp.DummyCookieJar()
        ) as session:
            await asyncio.gather(
                visit(session, "coroutine", "ada"), visit(session, "synchronous", "bob")
            )

    asyncio.run(run())
    assert server.stop(signal.SIGTERM) == 0
    assert "Traceback" not in server.output


#: Has the master query, and tells which connection a view uses.
PRELOADED = """
from shop import *

def look():
    count()
    db.engine.dispose()

aio.call(look)

@app.get("/coroutine/backend")
async def backend():
    return {"pid": backend_pid()}

@app.get("/synchronous/backend")
def backend_synchronous():
    return {"pid": backend_pid()}

def backend_pid():
    return db.session.scalar(select(func.pg_backend_pid()))
"""


@pytest.mark.parametrize("database_url", ["asyncpg", "psycopg_async"], indirect=True)
def test_workers_of_a_master_that_has_queried(gunicorn, flask, database_url):
    """Each forked worker opens connections of its own, if the master has disposed of its."""
    flask("fill", "ada", "bob")
    server = gunicorn(
        *("-w", "2", "--preload"),
        name="preloaded:app",
        files={"preloaded.py": PRELOADED},
        env={"DATABASE_URL": database_url},
    )
    backends: dict[str, set[int]] = {}
    while len(backends) < 2 or min(map(len, backends.values())) < 1:
        for kind in KINDS:
            with urllib.request.urlopen(f"{server.url}/{kind}/backend", timeout=60) as answer:
                connections = backends.setdefault(answer.headers["X-Pid"], set())
                connections.add(json.load(answer)["pid"])
    assert set(map(int, backends)) == set(server.children())
    assert not set.intersection(*backends.values())
    assert server.stop(signal.SIGTERM) == 0


# --- commands


def test_commands_of_the_app(flask):
    """A command makes tables and commits; an async def command counts."""
    flask("fill", "ada", "bob")
    assert flask("count") == "2 users\n"


def test_shell(flask):
    """flask shell queries line after line, in its app context."""
    flask("fill", "ada")
    output = flask(
        "shell",
        stdin="from shop import *\n"
        "ada = users().one()\n"
        "ada.items.append(Item(name='pen'))\n"
        "db.session.commit()\n"
        "print([ada.name, [item.name for item in ada.items]])\n",
    )
    assert "['ada', ['pen']]" in output


def test_migrations(flask):
    """Flask-Migrate's commands, and the env.py that it writes, work as they are."""
    flask("db", "init")
    flask("db", "migrate", "-m", "first")
    flask("db", "upgrade")
    assert flask("count") == "0 users\n"
    assert "(head)" in flask("db", "current")
    flask("db", "check")
    flask("db", "downgrade")
    flask("db", "upgrade")
    assert flask("count") == "0 users\n"
