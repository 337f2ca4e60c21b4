"""The hooks that run when a server starts and stops: once per process and server."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

from flask import Flask

Hook = Callable[..., Any]


class Lifecycle:
    """The hooks registered on one app, in the order in which they were."""

    def __init__(self) -> None:
        self.cleanup_ctx: list[Hook] = []
        self.on_startup: list[Hook] = []
        self.on_cleanup: list[Hook] = []

    def begin(self, app: Flask) -> RunningLifecycle:
        """Return the state of one run of the hooks."""
        return RunningLifecycle(self, app)


class RunningLifecycle:
    """One run of an app's hooks: each that was entered is left again, also after an error."""

    def __init__(self, hooks: Lifecycle, app: Flask) -> None:
        self._hooks = hooks
        self._app = app
        self._entered: list[AbstractAsyncContextManager[Any]] = []
        self._started = False

    async def start(self) -> None:
        """Enter the cleanup contexts, then call the start hooks."""
        self._started = True
        for function in self._hooks.cleanup_ctx:
            context = self._context_of(function)
            await context.__aenter__()
            self._entered.append(context)
        for function in self._hooks.on_startup:
            await self._call(function)

    async def stop(self) -> None:
        """Call the clean-up hooks, then leave the cleanup contexts, both the last one first.

        An error in one is not told to the others and does not keep them from running.

        :raises BaseExceptionGroup: several of them failed; a single error is raised as it is.
        """
        if not self._started:
            return
        self._started = False
        errors: list[BaseException] = []
        calls: list[Callable[[], Awaitable[Any]]] = [
            partial(self._call, function) for function in self._hooks.on_cleanup
        ]
        leaves = [partial(context.__aexit__, None, None, None) for context in self._entered]
        self._entered.clear()
        ends: list[Callable[[], Awaitable[Any]]] = [*reversed(calls), *reversed(leaves)]
        for end in ends:
            try:
                await end()
            except BaseException as error:
                errors.append(error)
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise BaseExceptionGroup("Several clean-up hooks failed.", errors)

    def _context_of(self, function: Hook) -> AbstractAsyncContextManager[Any]:
        made = self._with_app(function)
        if isinstance(made, AbstractAsyncContextManager):
            return made
        if not isinstance(made, AsyncIterator):
            raise TypeError(
                f"aio.cleanup_ctx needs an async generator function, which {function!r} is not:"
                " write 'async def', with one 'yield' in it."
            )
        iterator = made
        return asynccontextmanager(lambda: iterator)()

    async def _call(self, function: Hook) -> None:
        result = self._with_app(function)
        if inspect.isawaitable(result):
            await result

    def _with_app(self, function: Hook) -> Any:
        """Call a hook, with the app if it takes a parameter, as aiohttp's hooks do."""
        try:
            takes_app = bool(inspect.signature(function).parameters)
        except (TypeError, ValueError):
            takes_app = False
        return function(self._app) if takes_app else function()
