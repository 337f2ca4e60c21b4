"""What all contenders answer, so that they do the same work."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

PAYLOAD: Final[dict[str, Any]] = {"message": "Hello, World!", "numbers": list(range(10))}

#: Rendered by all, from the folder of the templates, which are compiled once.
TEMPLATE: Final = "rows.html"
TEMPLATES: Final = Path(__file__).parent / "templates"
CONTEXT: Final[dict[str, Any]] = {
    "title": "Fifty <rows>",
    "rows": [{"name": f"row & {number}", "value": number} for number in range(50)],
}

#: Seconds that the views which wait, wait for.
WAIT: Final = 0.1
#: A streamed response.
CHUNK: Final = b"x" * 1024
CHUNKS: Final = 100
#: Bytes that an upload is read in.
PIECE: Final = 64 * 1024
#: Iterations of the view that uses the processor: some ten milliseconds of pure Python.
BURN: Final = 150_000
#: The size of a WebSocket message that is accepted, and the seconds between pings, for everyone
#: who can be told.
MAX_MESSAGE: Final = 16 * 1024 * 1024
HEARTBEAT: Final = 25.0


def upstream_url() -> str:
    """Return the address of the slow server that the views call."""
    return os.environ["BENCHMARK_UPSTREAM"]


def file_path() -> str:
    """Return the large file that is downloaded."""
    return os.environ["BENCHMARK_FILE"]


def burn() -> int:
    """Use the processor, and keep the interpreter's lock as ordinary Python code does."""
    total = 0
    for number in range(BURN):
        total += number
    return total
