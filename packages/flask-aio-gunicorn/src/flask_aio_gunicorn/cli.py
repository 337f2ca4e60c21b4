"""``flask-aio-gunicorn``: gunicorn's own command, with the worker chosen."""

from __future__ import annotations

from importlib.util import find_spec

from gunicorn.app.wsgiapp import WSGIApplication


class FlaskAioApplication(WSGIApplication):
    """gunicorn's command-line application; ``-k`` and the other settings still have the last word.

    uvloop is used where it is installed, as by ``aio.run``.
    """

    def load_default_config(self) -> None:
        super().load_default_config()
        worker = "AioUVLoopWorker" if find_spec("uvloop") else "AioWorker"
        self.cfg.set("worker_class", f"flask_aio_gunicorn.{worker}")


def run() -> None:
    """Run the command."""
    FlaskAioApplication("%(prog)s [OPTIONS] [APP_MODULE]").run()
