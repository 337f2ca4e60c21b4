"""A Flask app, as it stands, under gunicorn."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("name", ["app:app", "app:create_app()"])
def test_app_and_factory_are_served(gunicorn, name):
    """The app itself or a factory can be named; coroutine views run on the loop."""
    source = """
from flask import Flask
app = Flask(__name__)

@app.get("/")
async def index():
    return "served"

def create_app():
    return app
"""
    server = gunicorn(app=source, name=name)
    response = server.get("/")
    assert (response.status, response.text) == (200, "served")
    assert server.stop() == 0
