"""Refusing a process that gevent has patched."""

from __future__ import annotations

import sys

from .exceptions import PatchedByGevent


def refuse_gevent() -> None:
    """Raise if gevent has replaced the standard library's threads or sockets.

    :raises PatchedByGevent: it has.
    """
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None:
        return
    if any(monkey.is_module_patched(name) for name in ("socket", "threading", "select", "thread")):
        raise PatchedByGevent(
            "This process was patched by gevent (monkey.patch_all), which replaces the functions"
            " that asyncio is built on: remove the patching, or choose a server that does not."
        )
