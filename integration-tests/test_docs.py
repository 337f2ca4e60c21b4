"""Every code block of the documentation, run as its reader would run it.

The Python blocks of a page share one namespace and run in their order. A block whose introduction
ends with a file name and a colon is saved under that name, so that commands and other blocks can
use it. An HTML comment that begins with ``test:`` holds assertions about what came before it; after
one that says ``before``, a Python block shows another project's code, and is only compiled.
"""

from __future__ import annotations

import ast
import asyncio
import configparser
import contextlib
import importlib
import inspect
import json
import os
import pkgutil
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import gunicorn.config
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from flask import Flask
from markdown_it import MarkdownIt
from packaging.requirements import Requirement

import flask_aio_core
import flask_aio_core.config
import flask_aio_core.serving
import flask_aio_gunicorn.settings
import flask_aio_ws
import flask_aio_ws.config
from flask_aio_core import AioHTTP

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for pattern in ("README.md", "packages/*/README.md", "docs/**/*.md")
    for path in ROOT.glob(pattern)
    if "_build" not in path.parts
)
#: MyST directives: the build of the documentation checks them.
DIRECTIVES = {"{eval-rst}", "{include}", "{toctree}"}
_FILE_NAME = re.compile(r"`(\w+\.(?:ini|py|toml))`[^`]*:$")
_SERVING = re.compile(r"(?:Running on|Listening at:) (http://[\w.:]+)")
_DOCKER_INSTRUCTIONS = {
    *("CMD", "COPY", "ENV", "EXPOSE", "FROM", "HEALTHCHECK"),
    *("RUN", "STOPSIGNAL", "USER", "WORKDIR"),
}
#: Has a server listen on a free port, whichever port the script names.
_ON_A_FREE_PORT = """
import runpy, socket, sys
create_server = socket.create_server
socket.create_server = lambda address, **kw: create_server((address[0], 0), **kw)
runpy.run_path(sys.argv[1], run_name="__main__")
"""


@dataclass
class Block:
    """A fenced code block of a page, or the assertions of a comment."""

    language: str
    text: str
    line: int
    #: The name that the page saves the block under.
    file: str | None = None


def read_markdown(page: Path) -> list[Any]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def blocks_of(page: Path) -> Iterator[Block]:
    introduction = ""
    is_before = False
    for token in read_markdown(page):
        line = (token.map or [0])[0] + 1
        if token.type == "fence":
            found = _FILE_NAME.search(introduction)
            language = token.info.split(maxsplit=1)[0] if token.info.strip() else ""
            if is_before and language == "python":
                language = "before"
            is_before = False
            yield Block(language, token.content, line, found and found[1])
        elif token.type == "html_block" and token.content.strip() == "<!-- before -->":
            is_before = True
        elif token.type == "html_block" and token.content.startswith("<!-- test:"):
            text = token.content.removeprefix("<!-- test:").strip().removesuffix("-->")
            yield Block("test", text, line)
        elif token.type == "code_block":
            yield Block("", token.content, line)
        if token.content or token.type == "hr":
            introduction = token.content if token.type == "inline" else ""


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@contextlib.asynccontextmanager
async def serve(app: Flask | web.Application) -> AsyncIterator[TestClient[Any, Any]]:
    """Serve an app on a free port; the assertions of the pages call this."""
    if isinstance(app, Flask):
        flask_aio_core.serving.ensure_extension(app)  # As the workers of gunicorn do it.
    application = app.aiohttp_app if isinstance(app, Flask) else app  # type: ignore[attr-defined]
    async with TestClient(TestServer(application)) as client:
        yield client


class Page:
    """The run of one page, in an empty directory."""

    def __init__(self, path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._path = path
        self._directory = directory
        self._monkeypatch = monkeypatch
        self._module = ModuleType("page")
        self._apps: dict[int, Flask] = {}

    def run(self, block: Block) -> None:
        match block.language:
            case "python":
                self._run_python(block)
            case "test":
                self._execute(block, vars(self._module) | {"serve": serve})
            case "before":
                compile(block.text, str(self._path), "exec", dont_inherit=True)
            case "console":
                for line in block.text.splitlines():
                    assert line.startswith("$ "), f"not a command: {line!r}"
                    run_command(shlex.split(line[2:], comments=True), self._directory)
            case "ini":
                configparser.ConfigParser().read_string(block.text)
            case "toml":
                tomllib.loads(block.text)
            case "nginx":
                check_nginx(block.text)
            case "systemd":
                check_systemd(block.text, self._directory)
            case "dockerfile":
                check_dockerfile(block.text, self._directory)
            case "text":
                assert block.text.strip()
            case directive if directive in DIRECTIVES:
                pass
            case other:
                pytest.fail(f"{self._path}:{block.line}: no test for a block of {other!r}")
        if block.file is not None:
            (self._directory / block.file).write_text(block.text, encoding="utf-8")

    def finish(self) -> None:
        """Request every page of every app that was made, then let go of them."""
        for app in self._apps.values():
            asyncio.run(request_all(app))
        for value in vars(self._module).values():
            if isinstance(value, AioHTTP):
                value.close()

    def _run_python(self, block: Block) -> None:
        name = Path(block.file).stem if block.file else "page"
        if name.startswith("test_"):
            compile(block.text, name, "exec")  # The page runs it with pytest.
            return
        self._monkeypatch.setitem(sys.modules, name, self._module)
        self._module.__name__ = name
        self._execute(block, vars(self._module))
        made = [value for value in vars(self._module).values() if isinstance(value, Flask)]
        self._apps.update((id(app), app) for app in made)

    def _execute(self, block: Block, namespace: dict[str, Any]) -> None:
        source = "\n" * block.line + block.text  # Errors show the line of the page.
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT if block.language == "test" else 0
        code = compile(source, str(self._path), "exec", flags=flags, dont_inherit=True)
        coroutine = eval(code, namespace)
        if inspect.iscoroutine(coroutine):
            asyncio.run(coroutine)
        for app in self._apps.values():
            app._got_first_request = False  # The page may go on to add views.


async def request_all(app: Flask) -> None:
    """Get the first bytes of every page that needs no arguments."""
    async with serve(app) as client:
        for rule in app.url_map.iter_rules():
            if rule.arguments or "GET" not in (rule.methods or ()):
                continue
            async with client.get(rule.rule) as response:
                assert response.status < 500, rule.rule
                await response.content.readany()
                response.close()


def run_command(command: list[str], directory: Path) -> None:
    """Run a command of a page for real, except those that would change the machine."""
    match command:
        case ["pip", "install", *requirements]:
            check_installable(requirements)
        case ["make", target]:
            makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
            assert re.search(rf"^{re.escape(target)}:.*##", makefile, re.MULTILINE), target
        case ["pytest"]:
            run_module(["pytest"], directory)
        case ["python", script]:
            serve_and_stop(["-c", _ON_A_FREE_PORT, script], directory)
        case ["flask", "--app", _, "aio", "run", *_]:
            serve_and_stop(["-m", *command, "--port", "0"], directory)
        case ["flask", "--app", _, *_]:
            run_module(command, directory)
        case ["gunicorn" | "flask-aio-gunicorn", *_]:
            serve_and_stop(on_a_free_port(command), directory)
        case _:
            pytest.fail(f"no test for the command {command}")


def on_a_free_port(command: list[str]) -> list[str]:
    """Return the arguments of Python for a gunicorn command."""
    module = command[0].replace("-", "_")
    assert command.count("--bind") <= 1
    if "--bind" not in command:
        command = [*command, "--bind", ""]
    value = command.index("--bind") + 1
    return ["-m", module, *command[1:value], "127.0.0.1:0", *command[value + 1 :]]


def get_start_page(url: str) -> None:
    with urllib.request.urlopen(url, timeout=60) as response:
        assert response.status == 200


def run_module(command: list[str], directory: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def serve_and_stop(
    arguments: list[str], directory: Path, probe: Callable[[str], None] = get_start_page
) -> None:
    """Start a server, request its start page, and stop it as Ctrl-C in a terminal does."""
    environment = os.environ | {
        "HOME": str(directory),
        "PYTHONPATH": str(directory),
        "PYTHONUNBUFFERED": "1",
    }
    server = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert server.stdout is not None
    output = []
    try:
        for line in server.stdout:
            output.append(line)
            if found := _SERVING.search(line):
                break
        else:
            pytest.fail(f"{arguments} did not start:\n{''.join(output)}")
        probe(found[1])
        os.killpg(server.pid, signal.SIGINT)
        rest, _ = server.communicate(timeout=60)
        assert server.returncode == 0, "".join(output) + rest
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        server.stdout.close()


def check_installable(requirements: list[str]) -> None:
    """A page asks only for our own distributions, or for what the environment is made of."""
    lock = tomllib.loads((ROOT / "poetry.lock").read_text(encoding="utf-8"))
    known = {package["name"]: set(package.get("extras", {})) for package in lock["package"]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for group in project["dependency-groups"].values():
        for entry in group:
            if isinstance(entry, str):
                known.setdefault(Requirement(entry).name, set())
    for text in requirements:
        requirement = Requirement(text)
        assert requirement.name in known, text
        assert requirement.extras <= known[requirement.name], text


def check_nginx(text: str) -> None:
    depth = 0
    for line in filter(None, map(str.strip, text.splitlines())):
        assert line[-1] in ";{}", f"neither a statement nor a block: {line!r}"
        depth += line.count("{") - line.count("}")
        assert depth >= 0
    assert depth == 0


def check_systemd(text: str, directory: Path) -> None:
    """Have systemd check a unit, then run its command as it stands but for the paths."""
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(text)
    service = unit["Service"]
    path, *options = shlex.split(service["ExecStart"])
    command = [Path(path).name, *options]
    assert service["Type"] == "notify"
    assert service["KillMode"] == "mixed"
    grace = int(command[command.index("--graceful-timeout") + 1])
    assert int(service["TimeoutStopSec"]) > grace
    runtime = f"/run/{service['RuntimeDirectory']}"
    assert command[command.index("--bind") + 1].startswith(f"unix:{runtime}/")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind("notify")
        notified.settimeout(60)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NOTIFY_SOCKET", str(directory / "notify"))
            local = [option.replace(runtime, str(directory)) for option in command]
            serve_and_stop(on_a_free_port(local), directory)
        assert b"READY=1" in notified.recv(4096)
    if verify := shutil.which("systemd-analyze"):
        file = directory / "hello.service"
        file.write_text(text.replace(path, sys.executable), encoding="utf-8")
        done = subprocess.run(
            [verify, "verify", "--man=no", str(file)],
            capture_output=True,
            text=True,
            check=False,
        )
        # It also reports on the units of the machine, and only warns of what it does not know.
        assert file.name not in done.stdout + done.stderr, done.stdout + done.stderr


def check_dockerfile(text: str, directory: Path) -> None:
    """Check what the instructions name, and run the commands of the container."""
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line]
    assert {name for name, _ in lines} <= _DOCKER_INSTRUCTIONS
    final = lines[max(number for number, (name, _) in enumerate(lines) if name == "FROM") :]
    *_, user = (value for name, value in final if name == "USER")
    assert user not in ("root", "0")
    assert ["STOPSIGNAL", "SIGTERM"] in final
    (command,) = (json.loads(value) for name, value in final if name == "CMD")
    (health,) = (value for name, value in final if name == "HEALTHCHECK")
    interpreter, *check = json.loads(health.partition("CMD ")[2])
    assert interpreter == "python"
    (port,) = (value for name, value in final if name == "EXPOSE")
    assert command[command.index("--bind") + 1] == f"0.0.0.0:{port}"
    assert command[command.index("--worker-tmp-dir") + 1] == "/dev/shm"
    for source in re.findall(r"^COPY (\S+\.py) ", text, re.MULTILINE):
        assert (directory / source).exists(), source

    def ask(url: str) -> None:
        own = f"http://127.0.0.1:{port}"
        assert any(own in argument for argument in check)
        for address, status in ((url, 0), (f"{url}/absent", 1)):
            local = [argument.replace(f"{own}/", address) for argument in check]
            asked = subprocess.run(
                [sys.executable, *local], capture_output=True, text=True, check=False
            )
            assert asked.returncode == status, asked.stderr

    serve_and_stop(on_a_free_port(command), directory, ask)


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_code_block_works(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """What the page shows runs as shown, and does what the page says."""
    if path.name == "clients.md":
        monkeypatch.setenv("REDIS_URL", request.getfixturevalue("redis_url"))
        monkeypatch.setenv("RATES_URL", request.getfixturevalue("upstream").url)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    page = Page(path, tmp_path, monkeypatch)
    for block in blocks_of(path):
        page.run(block)
    page.finish()


@pytest.mark.parametrize("language", ["", "ruby"])
def test_a_block_of_an_unknown_language_fails(
    language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No block can be added to the documentation that is not tested."""
    page = Page(ROOT / "README.md", tmp_path, monkeypatch)
    with pytest.raises(pytest.fail.Exception, match="no test for a block"):
        page.run(Block(language, "puts 1", line=1))


def test_the_code_of_another_project_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block after the comment is not run, and the next one is."""
    page_path = tmp_path / "page.md"
    blocks = "```python\nimport absent\n```\n\n```python\none = 1\n```\n"
    page_path.write_text(f"Before:\n\n<!-- before -->\n\n{blocks}")
    page = Page(page_path, tmp_path, monkeypatch)
    theirs, ours = blocks_of(page_path)
    page.run(theirs)
    assert ours.language == "python"
    with pytest.raises(SyntaxError):
        page.run(Block(theirs.language, "def", line=1))


def test_an_assertion_that_is_wrong_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The assertions in comments are run, in the namespace of the blocks before them."""
    page_path = tmp_path / "page.md"
    page_path.write_text("```python\none = 1\n```\n\n<!-- test:\nassert one == 2\n-->\n")
    page = Page(page_path, tmp_path, monkeypatch)
    code, assertion = blocks_of(page_path)
    page.run(code)
    with pytest.raises(AssertionError):
        page.run(assertion)


def test_configuration_lists_every_key_with_its_default() -> None:
    """The tables of the configuration page are the lists in the code."""
    cells = (
        token.content
        for token in read_markdown(ROOT / "docs/configuration.md")
        if token.type == "inline" and re.fullmatch(r"`[^`]+`", token.content)
    )
    table = {
        key.strip("`"): ast.literal_eval(default.strip("`"))
        for key, default in zip(cells, cells, strict=True)
    }
    defaults = flask_aio_core.config.DEFAULTS | flask_aio_ws.config.DEFAULTS
    assert list(table.items()) == list(defaults.items())


def test_gunicorn_settings_lists_every_setting() -> None:
    """The tables have all settings of gunicorn, and those are refused that the code refuses."""
    text = (ROOT / "docs/gunicorn-settings.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([\w ]+) \| ", text, re.MULTILINE)
    kinds = dict(rows)
    assert len(rows) == len(kinds)
    assert set(kinds) == set(gunicorn.config.make_settings())
    assert set(kinds.values()) == {"honoured", "differs", "no effect", "refused"}
    refused = {name for name, kind in kinds.items() if kind == "refused"}
    assert refused == set(flask_aio_gunicorn.settings._REFUSED)


def public_names() -> dict[str, set[str]]:
    """The names that each module of the packages exports: a module without a list exports none."""
    names = {}
    for package in (flask_aio_core, flask_aio_gunicorn, flask_aio_ws):
        found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        for name in (package.__name__, *(module.name for module in found)):
            if not name.endswith(".__main__"):
                names[name] = set(getattr(importlib.import_module(name), "__all__", ()))
    return {module: exported for module, exported in names.items() if exported}


def documented_names() -> dict[str, list[str]]:
    """The names that the pages have entries for, by the module that each entry gives."""
    names: dict[str, list[str]] = {}
    for page in PAGES:
        module = ""
        for directive, argument in re.findall(
            r"^\.\. (currentmodule|auto\w+|py:data):: ([\w.]+)$",
            page.read_text(encoding="utf-8"),
            re.MULTILINE,
        ):
            if directive == "currentmodule":
                module = argument
            else:
                names.setdefault(module, []).append(argument)
    return names


def test_the_reference_has_every_public_name_once() -> None:
    """Whatever a module exports by ``__all__`` has an entry, and nothing else has."""
    documented = {module: sorted(names) for module, names in documented_names().items()}
    assert documented == {module: sorted(names) for module, names in public_names().items()}


def test_every_public_name_has_a_docstring() -> None:
    """So have the public methods and properties of the classes among them."""
    without = []
    for module, names in public_names().items():
        for name in names:
            value = getattr(importlib.import_module(module), name)
            if inspect.isclass(value):
                members = [item for item in vars(value).items() if not item[0].startswith("_")]
                without += [
                    f"{module}.{name}.{member}"
                    for member, function in members
                    if (inspect.isroutine(function) or isinstance(function, property))
                    and not function.__doc__
                ]
            if (inspect.isclass(value) or inspect.isfunction(value)) and not value.__doc__:
                without.append(f"{module}.{name}")
    assert without == []


def test_api_lists_every_entry_point() -> None:
    """Commands and plugins are announced by entry points."""
    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    for path in ROOT.glob("packages/*/pyproject.toml"):
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        groups = project.get("entry-points", {}) | {"console_scripts": project.get("scripts", {})}
        for group, entries in groups.items():
            for name in entries:
                assert f"`{name}`" in text, f"{name} of {group}"
                assert f"`{group}`" in text, group


def test_api_lists_every_logger() -> None:
    """Loggers are named so that their levels can be set."""
    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    found = set()
    for path in ROOT.glob("packages/*/src/**/*.py"):
        found |= set(re.findall(r'getLogger\("([\w.]+)"\)', path.read_text(encoding="utf-8")))
    assert found
    assert [name for name in sorted(found) if f"`{name}`" not in text] == []


def links_of(page: Path) -> Iterator[str]:
    for token in read_markdown(page):
        for child in token.children or ():
            if child.type == "link_open":
                yield child.attrs["href"]
            elif child.type == "image":
                yield child.attrs["src"]


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub and the built documentation give to headings."""
    tokens = read_markdown(page)
    return {
        re.sub(r"[^\w\- ]", "", text.content.lower()).replace(" ", "-")
        for heading, text in pairwise(tokens)
        if heading.type == "heading_open"
    }


OTHER_PAGES = [
    path
    for pattern in ("*.md", "benchmarks/*.md", "conformance/*.md", "examples/**/*.md")
    for path in ROOT.glob(pattern)
    if path not in PAGES
]


@pytest.mark.parametrize("path", [*PAGES, *OTHER_PAGES], ids=name_of)
def test_links_between_files_lead_somewhere(path: Path) -> None:
    """A relative link names a file and a heading that exist."""
    for link in links_of(path):
        if re.match(r"https?://", link):
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_images_are_described(path: Path) -> None:
    """An image has a text for those who do not see it, and an SVG file one of its own."""
    for token in read_markdown(path):
        for child in token.children or ():
            if child.type == "image":
                assert child.content, child.attrs["src"]
                source = (path.parent / child.attrs["src"]).read_text(encoding="utf-8")
                assert "<title" in source


@pytest.mark.parametrize("path", sorted(ROOT.glob("packages/*/README.md")), ids=name_of)
def test_package_readmes_have_no_relative_links(path: Path) -> None:
    """The package index shows them, where a relative link leads nowhere."""
    assert [link for link in links_of(path) if not link.startswith("https://")] == []


def test_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    """Sphinx finds every page, reference and docstring in order."""
    run_module(["sphinx", "-q", "-W", "--keep-going", str(ROOT / "docs"), str(tmp_path)], ROOT)
