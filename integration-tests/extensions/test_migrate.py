"""Flask-Migrate."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXTENSION = "Flask-Migrate"
APP = "migrate"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Make the tables as a user does, by three commands."""
    directory = tmp_path_factory.mktemp("migrations")
    variables = {
        "FLASK_SQLALCHEMY_DATABASE_URI": f"sqlite:///{directory / 'notes.sqlite3'}",
        "PYTHONPATH": str(Path(__file__).parent),
    }
    for command in (["init"], ["migrate", "-m", "first"], ["upgrade"]):
        done = subprocess.run(
            [sys.executable, "-m", "flask", "--app", "apps.migrate", "db", *command],
            cwd=directory,
            env=os.environ | variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return variables


@pytest.mark.covers("synchronous view", "coroutine view", "flask db init, migrate and upgrade")
@pytest.mark.parametrize("path", ["synchronous", "coroutine"])
async def test_views_use_the_migrated_tables(client, path):
    assert path in (await client.post(f"/{path}/{path}")).json()
