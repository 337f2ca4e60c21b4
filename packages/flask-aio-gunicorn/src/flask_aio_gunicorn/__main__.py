"""``python -m flask_aio_gunicorn``: the command ``flask-aio-gunicorn``."""

from __future__ import annotations

from .cli import run

if __name__ == "__main__":
    run()
