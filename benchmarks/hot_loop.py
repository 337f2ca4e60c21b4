"""Flask called in process, over and over: no server, no socket, all caches warm.

The figure flatters Flask and cannot be compared with a live server's: there the same call takes 1.5
to 2 times as long. It only shows where the rest of a server's time cannot go.
"""

from __future__ import annotations

import io
import sys
import time
from typing import Any

from .apps.plain_flask import make_app


def environ() -> dict[str, Any]:
    """Return a request for the synchronous JSON view."""
    return {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/synchronous",
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "localhost",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }


def main() -> None:
    """Print the seconds of CPU time for one call."""
    app = make_app()

    def call() -> None:
        iterable = app(environ(), lambda *_: lambda _: None)
        b"".join(iterable)
        iterable.close()  # type: ignore[attr-defined]

    for _ in range(2000):
        call()
    count, start = 0, time.process_time()
    while time.process_time() - start < 1.0:
        for _ in range(100):
            call()
        count += 100
    print((time.process_time() - start) / count)


if __name__ == "__main__":
    main()
