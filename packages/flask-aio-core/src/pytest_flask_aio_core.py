"""pytest's plugin of flask-aio-core: fixtures over ``flask_aio_core.testing``.

A module beside the package: pytest loads it in every project that has the package installed, and
importing the package imports Flask and aiohttp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from flask import Flask

    from flask_aio_core.testing import AioClient, LiveServer


@pytest.fixture
def aio_live_server(app: Flask) -> Iterator[LiveServer]:
    """The app of the fixture ``app`` on a real server: ``aio_live_server.url`` is its address."""
    from flask_aio_core.testing import LiveServer

    with LiveServer(app) as server:
        yield server


@pytest.fixture
def aio_client(app: Flask) -> Callable[..., AioClient]:
    """A client for the app of the fixture ``app``: ``async with aio_client() as client:``."""
    from functools import partial

    from flask_aio_core.testing import AioClient

    return partial(AioClient, app)
