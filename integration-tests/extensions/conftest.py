"""Every extension's app under both servers, and the table of what has been seen to work.

A module of tests names its extension and its app (``apps/NAME.py``), and each test says by the
marker ``covers`` what it shows. They need an environment of their own: ``make test-extensions``.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import re
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDictProxy

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs/extensions.md"
HANG = 60

#: What the columns of the table show; everything else that a test covers stands in the last one.
KINDS = ("synchronous view", "coroutine view", "stream", "WebSocket")
_BEGIN = "<!-- Written by make test-extensions: begin -->\n"
_END = "<!-- Written by make test-extensions: end -->\n"
_HEAD = "| Extension | Version | Synchronous view | Coroutine view | Stream | WebSocket | Also |\n"
_ROW = re.compile(
    r"^\| (?!Extension)(\S.*?) \| (\S+) \| (.*?) \| (.*?) \| (.*?) \| (.*?) \| (.*?) \|$"
)
_YES, _NONE = "yes", "-"

if importlib.util.find_spec("flask_smorest") is None:  # The ordinary environment.
    collect_ignore_glob = ["test_*.py"]

#: Serves an app that knows nothing of flask-aio, as two more lines in its file would.
_AIO_RUN = """
import importlib, sys
from flask_aio_core import AioHTTP
from flask_aio_core.serving import ensure_extension

app = importlib.import_module(sys.argv[1]).app
ensure_extension(app)
AioHTTP().run(app, port=0)
"""


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """The environment variables of the app; a module of tests may give others."""
    return {}


@pytest.fixture(scope="module", params=["aio.run", "gunicorn"])
def server(
    request: pytest.FixtureRequest,
    environment: dict[str, str],
    start_in: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Any]:
    """The app of the module, served by each server once for all tests of the module."""
    name = f"apps.{request.module.APP}"
    if request.param == "aio.run":
        command = ["-c", _AIO_RUN, name]
    else:
        program = str(Path(sys.executable).with_name("gunicorn"))
        command = [program, f"{name}:app", "-k", "flask_aio_gunicorn.AioWorker"]
        command += ["-b", "127.0.0.1:0", "--no-control-socket"]
        command += getattr(request.module, "GUNICORN_OPTIONS", [])
    with start_in(tmp_path_factory.mktemp(request.module.APP)) as start:
        # The extensions may use what is deprecated; flask-aio may not.
        env = {"PYTHONPATH": str(HERE), **environment}
        server = start(*command, env=env, warnings="default")
        server.kind = request.param
        yield server
        server.stop()
        warned = [line for line in server.output.splitlines() if "Warning: " in line]
        assert not [line for line in warned if "flask_aio_" in line]
        assert not [line for line in warned if "never awaited" in line], server.output
        assert "never retrieved" not in server.output


@dataclass
class Reply:
    """A complete response."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """A user agent with cookies of its own."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def request(self, method: str, path: str, **options: Any) -> Reply:
        async with self.session.request(method, path, allow_redirects=False, **options) as answer:
            return Reply(answer.status, answer.headers, await answer.read())

    async def get(self, path: str, **options: Any) -> Reply:
        return await self.request("GET", path, **options)

    async def post(self, path: str, **options: Any) -> Reply:
        return await self.request("POST", path, **options)

    async def talk(self, path: str, *messages: str, **options: Any) -> list[str]:
        """Open a WebSocket; send the messages, and return an answer for each."""
        answers = []
        async with self.session.ws_connect(path, **options) as socket:
            for message in messages:
                await socket.send_str(message)
                answers.append(await socket.receive_str(timeout=HANG))
        return answers

    async def refusal(self, path: str, **options: Any) -> int:
        """Return the status by which a WebSocket's handshake is refused."""
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await self.talk(path, **options)
        return caught.value.status


@pytest.fixture
async def new_client(server: Any) -> AsyncIterator[Callable[[], Client]]:
    """Return a function that makes clients, each of which has its own cookies."""
    async with contextlib.AsyncExitStack() as stack:
        sessions: list[aiohttp.ClientSession] = []

        def make() -> Client:
            session = aiohttp.ClientSession(
                server.url,
                cookie_jar=aiohttp.CookieJar(unsafe=True),  # Those of an IP address, too.
                timeout=aiohttp.ClientTimeout(HANG),
            )
            sessions.append(session)
            stack.push_async_callback(session.close)
            return Client(session)

        yield make


@pytest.fixture
async def client(new_client: Callable[[], Client]) -> Client:
    """A client of the module's app."""
    return new_client()


@pytest.fixture(scope="module")
def smtp() -> Iterator[Any]:
    """An SMTP server; ``messages(subject)`` returns what it has received."""
    from aiosmtpd.controller import Controller
    from aiosmtpd.handlers import Message

    received = []

    class Inbox(Message):
        def handle_message(self, message: Any) -> None:
            received.append(message)

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    controller = Controller(Inbox(), hostname="127.0.0.1", port=port)
    controller.messages = lambda subject: [m for m in received if m["Subject"] == subject]
    controller.start()
    yield controller
    controller.stop()


# The table: the reports of the tests carry what they cover, also from the processes of xdist.

Claim = tuple[str, str]
_outcomes: dict[Claim, set[str]] = {}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "covers(*what): what a test shows of its extension")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == HERE:
            what = [text for mark in item.iter_markers("covers") for text in mark.args]
            assert what, f"{item.nodeid} does not say what it covers"
            for text in what:
                claim = (item.module.EXTENSION, text)  # type: ignore[attr-defined]
                item.user_properties.append(("covers", claim))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    for name, claim in report.user_properties:
        if name == "covers" and (report.when == "call" or report.outcome != "passed"):
            _outcomes.setdefault(tuple(claim), set()).add(report.outcome)  # type: ignore[arg-type]


def _table(claims: set[Claim]) -> str:
    """Return the table as Markdown."""
    lines = [_HEAD, "|---" * 7 + "|\n"]
    for extension in sorted({extension for extension, _ in claims}, key=str.casefold):
        shown = {what for name, what in claims if name == extension}
        cells = [_YES if kind in shown else _NONE for kind in KINDS]
        also = "; ".join(sorted(shown.difference(KINDS))) or _NONE
        version = importlib.metadata.version(extension)
        lines.append(f"| {' | '.join([extension, version, *cells, also])} |\n")
    return "".join(lines)


def _claims_of(table: str) -> set[Claim]:
    """Return what a table claims."""
    claims = set()
    for row in filter(None, map(_ROW.match, table.splitlines())):
        extension, _, *cells, also = row.groups()
        claims |= {
            (extension, kind) for kind, cell in zip(KINDS, cells, strict=True) if cell == _YES
        }
        claims |= {(extension, what) for what in also.split("; ") if what != _NONE}
    return claims


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the table if every module has run and passed; fail if the page has claimed more."""
    config = session.config
    narrowed = config.option.keyword or config.option.markexpr or config.option.collectonly
    whole = [Path(arg).resolve() for arg in config.args] == [HERE]
    if hasattr(config, "workerinput") or narrowed or not whole or not _outcomes:
        return
    page = PAGE.read_text(encoding="utf-8")
    before, begin, rest = page.partition(_BEGIN)
    table, end, after = rest.partition(_END)
    assert end, f"{PAGE} has no place for the table"
    skipped = {claim for claim, outcomes in _outcomes.items() if outcomes == {"skipped"}}
    shown = {claim for claim, outcomes in _outcomes.items() if outcomes == {"passed"}}
    claimed = _claims_of(table)
    lines = [f"claimed, but not shown: {': '.join(c)}" for c in sorted(claimed - shown - skipped)]
    failed = session.exitstatus != pytest.ExitCode.OK
    if lines:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    lines += [f"new: {': '.join(claim)}" for claim in sorted(shown - claimed)]
    lines += [f"not run: {': '.join(claim)}" for claim in sorted(skipped)]
    config.stash[_LINES] = lines
    if failed:
        return
    # What was skipped is neither shown nor refuted: the table keeps what it said.
    written = _table(shown | (claimed & skipped))
    PAGE.write_text(f"{before}{begin}\n{written}\n{end}{after}", encoding="utf-8")


_LINES: pytest.StashKey[list[str]] = pytest.StashKey()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if lines := config.stash.get(_LINES, None):
        terminalreporter.section(f"the table in {PAGE.name}")
        for line in lines:
            terminalreporter.line(line)
