"""pytest's plugin of flask-aio-ws: a fixture over ``flask_aio_ws.testing``.

A module beside the package: pytest loads it in every project that has the package installed, and
importing the package imports Flask and aiohttp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from flask_aio_core.testing import LiveServer
    from flask_aio_ws.testing import WebSocketClient


@pytest.fixture
def aio_websocket(aio_live_server: LiveServer) -> Iterator[Callable[..., WebSocketClient]]:
    """Open a WebSocket to a path of ``aio_live_server``; it is closed with the test."""
    from flask_aio_ws.testing import connect

    with ExitStack() as stack:

        def open_websocket(path: str, **options: Any) -> WebSocketClient:
            return stack.enter_context(connect(aio_live_server, path, **options))

        yield open_websocket
