"""The example Toolshed, an ordinary Flask application, under each of its servers.

It does not import flask-aio. The same tests run against ``flask run``, ``flask aio run``, gunicorn
with our worker, and ``flask aio run`` with an asyncio driver; the commands are those of the
examples' README.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, timedelta
from html import unescape
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import httpx
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
TOOLSHED = EXAMPLES / "toolshed"
HANG = 60
PASSWORD = "borrow-it"
PNG = b"\x89PNG\r\n\x1a\n"
KINDS = ["flask run", "flask aio run", "gunicorn", "flask aio run, aiosqlite"]

_numbers = count(1)
T = TypeVar("T")
R = TypeVar("R")


def readme_command(*beginning: str) -> list[str]:
    """Return the one command of the README that begins so."""
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    commands = {tuple(shlex.split(line)) for line in re.findall(r"^\$ (.+)$", text, re.MULTILINE)}
    (found,) = (list(command) for command in commands if command[: len(beginning)] == beginning)
    return found


# --- what a browser does


class Forms(HTMLParser):
    """The forms of a page, with what is in their fields."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str | None, dict[str, str]]] = []
        self._select: str | None = None
        self._text: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        name, value = given.get("name"), given.get("value") or ""
        if tag == "form":
            self.found.append((given.get("action") if given.get("method") else None, {}))
        if not self.found:
            return
        fields = self.found[-1][1]
        if tag == "textarea" and name:
            self._text = name
            fields[name] = ""
        elif tag == "select":
            self._select = name
        elif (
            tag == "option" and self._select and ("selected" in given or self._select not in fields)
        ):
            fields[self._select] = value
        elif tag == "input" and name and given.get("type") not in ("checkbox", "file"):
            fields[name] = value

    def handle_data(self, data: str) -> None:
        if self._text:
            # HTML ignores a line break at the beginning of the element.
            self.found[-1][1][self._text] += data.removeprefix("\r\n").removeprefix("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea":
            self._text = None


@dataclass
class Visitor:
    """Somebody with a browser of their own."""

    http: httpx.Client
    name: str = ""

    def get(self, path: str, status: int = 200, **options: Any) -> httpx.Response:
        answer = self.http.get(path, **options)
        assert answer.status_code == status, (path, answer.status_code, answer.text)
        return answer

    def submit(
        self,
        page: str,
        action: str | None = None,
        status: int = 200,
        files: Any = None,
        **fields: Any,
    ) -> httpx.Response:
        """Fill in a form of a page: the one that is sent to ``action``, or to the page itself."""
        address, filled = self.form(page, action)
        answer = self.http.post(address, data=filled | fields, files=files)
        assert answer.status_code == status, (address, answer.status_code, answer.text)
        return answer

    def form(self, page: str, action: str | None = None) -> tuple[str, dict[str, str]]:
        answer = self.get(page)
        own = answer.url.raw_path.decode()
        for address, fields in Forms(answer.text).found:
            if (address or own) == (action or own) and "csrf_token" in fields:
                return action or own, fields
        raise AssertionError(f"no form for {action or own} in {answer.text}")

    def log_in(self, name: str, password: str = PASSWORD, **fields: Any) -> Visitor:
        answer = self.submit("/auth/login", name=name, password=password, **fields)
        assert f"Welcome back, {name}." in answer.text
        self.name = name
        return self

    def add_thing(self, name: str, **fields: Any) -> str:
        """Add a thing to the catalogue; return its page's path."""
        answer = self.submit("/things/new", name=name, **fields)
        return answer.url.path.removesuffix("/edit")


def main_of(answer: httpx.Response) -> str:
    """Return what a page says, without markup."""
    (html,) = re.findall(r"<main.*</main>", answer.text, re.DOTALL)
    html = re.sub(r"</?(a|span)\b[^>]*>", "", html)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


# --- the servers


class Shops(ThreadingHTTPServer):
    """Shops that know a price for everything but a "secret"; "meet" has them wait for others."""

    #: So many requests for "meet" are answered together, when all of them are there.
    PARTIES = 18
    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Shop)
        self.meeting = threading.Barrier(self.PARTIES)


class Shop(BaseHTTPRequestHandler):
    server: Shops

    def do_GET(self) -> None:
        name = unquote(self.path.rpartition("/")[2])
        if name.startswith("meet"):
            self.server.meeting.wait(HANG)
        body = b"gone" if name == "secret" else b'{"price": %d.5}' % len(name)
        self.send_response(500 if name == "secret" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def shops() -> Iterator[str]:
    with Shops() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/{{name}}"
        server.shutdown()
        thread.join()


def run_flask(command: list[str], data: Path) -> str:
    """Run a flask command of the README to its end; return what it says."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", *command],
        cwd=TOOLSHED,
        env=os.environ | {"TOOLSHED_DATA": str(data)},
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shed as ``init-db`` and ``seed`` leave it."""
    data = tmp_path_factory.mktemp("seeded")
    assert "ready" in run_flask(readme_command("flask", "--app", "toolshed", "init-db"), data)
    said = run_flask(readme_command("flask", "--app", "toolshed", "seed"), data)
    assert "Log in as Ada" in said
    assert PASSWORD in said
    late = run_flask(["flask", "--app", "toolshed", "overdue"], data)
    assert "Tent for two: Ada → Chidi" in late
    return data


@dataclass
class Site:
    """A running Toolshed, and those who visit it."""

    server: Any
    data: Path
    kind: str
    clients: list[httpx.Client] = field(default_factory=list)
    _crowd: list[Visitor] = field(default_factory=list)

    def visitor(self) -> Visitor:
        client = httpx.Client(
            # There is no TLS; to read the certificates for it takes longer than some requests.
            verify=False,
            base_url=self.server.url,
            timeout=HANG,
            follow_redirects=True,
            trust_env=False,
        )
        self.clients.append(client)
        return Visitor(client)

    def member(self) -> Visitor:
        """Have somebody join whose name nobody else has."""
        visitor = self.visitor()
        visitor.name = f"Member{next(_numbers)}"
        answer = visitor.submit(
            "/auth/register", name=visitor.name, password=PASSWORD, again=PASSWORD, street="Here 1"
        )
        assert f"Welcome to the shed, {visitor.name}." in answer.text
        return visitor

    def crowd(self, number: int) -> list[Visitor]:
        """Return some members; those of other tests, as far as there are enough."""
        if (missing := number - len(self._crowd)) > 0:
            self._crowd += at_once(lambda _: self.member(), range(missing))
        return self._crowd[:number]

    def flask(self, *command: str) -> str:
        return run_flask(["flask", "--app", "toolshed", *command], self.data)

    def database(self) -> sqlite3.Connection:
        return sqlite3.connect(self.data / "toolshed.sqlite3", timeout=HANG)


@pytest.fixture(scope="module", params=KINDS)
def site(
    request: pytest.FixtureRequest,
    start_for_module: Any,
    seeded: Path,
    shops: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """Toolshed under one of the servers, with a database of its own."""
    data = tmp_path_factory.mktemp("data") / "instance"
    shutil.copytree(seeded, data)
    environment = {
        "PYTHONPATH": str(TOOLSHED),  # The README's commands are run in that folder.
        "TOOLSHED_DATA": str(data),
        "TOOLSHED_PRICE_SHOPS": f'{{"Open": "{shops}", "Closed": "http://127.0.0.1:1/{{name}}"}}',
    }
    if request.param.endswith("aiosqlite"):
        environment["DATABASE_URL"] = f"sqlite+aiosqlite:///{data}/toolshed.sqlite3"
    if request.param == "gunicorn":
        command = [*readme_command("gunicorn"), "--no-control-socket", "--bind", "127.0.0.1:0"]
        assert command[command.index("--workers") + 1] == "2"
        warnings = "default"
    else:
        run = request.param.partition(",")[0].split()[1:]
        command = [*readme_command("flask", "--app", "toolshed", *run), "--port", "0"]
        # Flask-SQLAlchemy never closes the pool, of which an asyncio driver warns at exit.
        warnings = "default" if request.param.endswith("aiosqlite") else "error"
    server = start_for_module("-m", *command, env=environment, warnings=warnings)
    site = Site(server, data, request.param)
    yield site
    for client in site.clients:
        client.close()
    assert server.stop(signal.SIGTERM if request.param == "gunicorn" else signal.SIGINT) == 0
    assert "Traceback" not in server.output, server.output
    assert "ERROR" not in server.output, server.output


@pytest.fixture
def visitor(site: Site) -> Visitor:
    return site.visitor()


@pytest.fixture
def ada(visitor: Visitor) -> Visitor:
    return visitor.log_in("Ada")


def at_once(act: Callable[[T], R], values: Iterable[T]) -> list[R]:
    """Call a function for all values at the same time, as far as threads can."""
    values = list(values)
    begin = threading.Barrier(len(values))

    def one(value: T) -> R:
        begin.wait(HANG)
        return act(value)

    with ThreadPoolExecutor(len(values)) as pool:
        return list(pool.map(one, values))


# --- the pages


def test_every_link_leads_somewhere(ada: Visitor) -> None:
    """From the start page, every page that Ada can click to is answered 200, as what it is."""
    seen, todo = set(), ["/"]
    while todo:
        path = todo.pop()
        answer = ada.get(path)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert re.fullmatch(r"app;dur=[\d.]+", answer.headers["Server-Timing"])
        if not answer.headers["Content-Type"].startswith("text/html"):
            continue
        assert answer.text.endswith("</html>")
        for link in re.findall(r'(?:href|src)="(/[^"#]*)', answer.text):
            address = unescape(link)
            # Of the pages that things and members have, some are enough.
            shape = re.sub(r"/\d+[^/?]*|(?<=/members)/\w+|page=\d+", "", address)
            if shape not in seen:
                seen.add(shape)
                todo.append(address)

    assert {"/", "/shed", "/inbox", "/reports/", "/account/tokens", "/things/edit"} <= seen
    assert {"/things/prices", "/shed/loans.csv", "/static/style.css", "/members"} <= seen


def test_login_leads_to_the_page_that_was_asked_for(site: Site, visitor: Visitor) -> None:
    """A page for members sends visitors to the login, and the login sends them back."""
    answer = visitor.get("/shed")
    assert answer.url.path == "/auth/login"
    assert "Please log in first." in answer.text

    page = answer.url.raw_path.decode()
    assert (
        visitor.submit(page, name="Bruno", password="wrong", status=401).url.path == "/auth/login"
    )
    answer = visitor.submit(page, name="bruno", password=PASSWORD)
    assert answer.url.path == "/shed"
    assert "Welcome back, Bruno." in answer.text
    assert "Welcome back" not in visitor.get("/shed").text

    answer = visitor.submit("/", "/auth/logout")
    assert "You are logged out." in answer.text
    assert visitor.get("/shed").url.path == "/auth/login"


@pytest.mark.parametrize(
    "target", ["https://evil.invalid/", "//evil.invalid", "/\\evil.invalid", "/\t/evil.invalid"]
)
def test_login_leads_to_no_other_site(visitor: Visitor, target: str) -> None:
    """A link to the login cannot name a page elsewhere to go on to."""
    page = str(httpx.URL("/auth/login", params={"next": target}))
    assert visitor.submit(page, name="Bruno", password=PASSWORD).url.path == "/"


@pytest.mark.parametrize("remember", [True, False])
def test_remember_me_outlives_the_session(visitor: Visitor, remember: bool) -> None:
    """Without the session's cookie, as after the browser was closed, only this keeps one in."""
    visitor.log_in("Chidi", **({"remember": "y"} if remember else {}))
    visitor.http.cookies.delete("session")

    assert visitor.get("/shed").url.path == ("/shed" if remember else "/auth/login")


def test_new_password_ends_the_other_sessions(site: Site) -> None:
    """Who changes the password stays in; the other browser, remembered or not, is out."""
    here = site.member()
    there = site.visitor().log_in(here.name, remember="y")

    page = "/account/password"
    wrong = here.submit(page, old="wrong-one", password="0" * 8, again="1" * 8, status=422)
    assert "That is not your password." in main_of(wrong)
    assert "The two passwords are not the same." in main_of(wrong)
    here.submit(page, old=PASSWORD, password="another one", again="another one")

    assert here.get("/shed").url.path == "/shed"
    assert there.get("/shed").url.path == "/auth/login"
    there.log_in(here.name, "another one")


def test_name_is_given_once_even_at_the_same_time(site: Site) -> None:
    """Of six who want the same name at once, one gets it; the others are told so."""
    visitors = [site.visitor() for _ in range(6)]
    name = f"Wanted {next(_numbers)}"
    filled = [visitor.form("/auth/register") for visitor in visitors]

    def join(number: int) -> httpx.Response:
        address, fields = filled[number]
        wanted = name if number % 2 else name.upper()
        fields |= {"name": wanted, "password": PASSWORD, "again": PASSWORD}
        return visitors[number].http.post(address, data=fields)

    answers = at_once(join, range(6))

    assert sorted(answer.status_code for answer in answers) == [200, *[422] * 5]
    refused = [answer for answer in answers if answer.status_code == 422]
    assert all("Somebody has that name already." in answer.text for answer in refused)


def test_form_without_its_token_is_refused(site: Site, ada: Visitor) -> None:
    """A form that is sent from elsewhere changes nothing: no token, or that of somebody else."""
    address, fields = ada.form("/account/")
    _, others = site.visitor().log_in("Bruno").form("/account/")
    before = fields["about"]

    for token in ("", "nonsense", others["csrf_token"]):
        sent = fields | {"about": "hacked", "csrf_token": token}
        answer = ada.http.post(address, data=sent)
        assert answer.status_code == 400
        assert "Try again" in main_of(answer)
    assert ada.form("/account/")[1]["about"] == before


def test_what_people_write_is_text(site: Site) -> None:
    """Markup in names, descriptions, comments and searches is shown, not obeyed; links are made."""
    eve, evil = site.member(), "<script>alert('&')</script>"
    page = eve.add_thing(
        f"Thing {evil}", description=f"{evil}\nsecond\n\nhttps://example.org/?a=1&b=2"
    )
    answer = eve.submit(page, f"{page}/comments", text=f"Oh {evil}\x00\n\n\x1b[1m")
    found = eve.get("/", params={"q": evil})

    for html in (answer.text, found.text):
        assert "<script" not in html
        assert "&lt;script&gt;alert(&#39;&amp;&#39;)" in html
    assert "<br>second</p>" in answer.text
    assert '<a href="https://example.org/?a=1&amp;b=2" rel="noopener nofollow">' in answer.text
    assert "\x00" not in answer.text
    assert "\x1b" not in answer.text
    assert "1 thing" in main_of(found)


def test_thing_has_one_address_and_belongs_to_its_owner(site: Site) -> None:
    """The page is found by its number; only the owner and stewards change or delete it."""
    owner, other, steward = site.member(), site.member(), site.visitor().log_in("Ada")
    page = owner.add_thing("Größe: XL & more")
    number = int(page.split("/")[-1].partition("-")[0])
    assert page == f"/things/{number}-groe-xl-more"

    moved = owner.http.get(f"/things/{number}-old-name", follow_redirects=False)
    assert (moved.status_code, moved.headers["Location"]) == (301, page)
    other.get(f"{page}/edit", status=403)
    for path in ("/things/999999999", "/things/99999999999999999999", "/things/0", "/things/x"):
        assert "Nothing here" in other.get(path, status=404).text

    answer = owner.submit(f"{page}/edit", name="", status=200)
    assert "This field is required." in main_of(answer)
    renamed = owner.submit(f"{page}/edit", name="Small", category="party").url.path
    assert renamed == f"/things/{number}-small"
    assert "Party Small" in main_of(steward.get(renamed))

    answer = steward.submit(f"{renamed}/edit", f"{renamed}/delete", status=422)
    assert "Tick this first." in main_of(answer)
    steward.submit(f"{renamed}/edit", f"{renamed}/delete", sure="y")
    owner.get(renamed, status=404)


def test_upload_comes_back_as_it_was(site: Site) -> None:
    """A photo of three megabytes is kept and sent: whole, in part, not again, and as a download."""
    owner = site.member()
    page = owner.add_thing("Camera")
    photo = PNG + os.urandom(3_000_000)
    owner.submit(
        f"{page}/edit", f"{page}/files", files={"file": ("../Фото 1.png", io.BytesIO(photo))}
    )

    shown = site.visitor().get(page)
    (address,) = re.findall(r'<img src="(/files/\d+)"', shown.text)
    whole = owner.get(address)
    assert whole.content == photo
    assert whole.headers["Content-Type"] == "image/png"
    assert "sandbox" in whole.headers["Content-Security-Policy"]
    part = owner.get(address, status=206, headers={"Range": "bytes=1000-1999"})
    assert part.content == photo[1000:2000]
    assert part.headers["Content-Range"] == f"bytes 1000-1999/{len(photo)}"
    etag = {"If-None-Match": whole.headers["ETag"]}
    assert owner.get(address, status=304, headers=etag).content == b""
    saved = owner.get(address, params={"download": ""})
    assert saved.headers["Content-Disposition"] == (
        "attachment; filename=\" 1.png\"; filename*=UTF-8''%D0%A4%D0%BE%D1%82%D0%BE%201.png"
    )
    head = owner.http.head(address)
    assert (head.content, head.headers["Content-Length"]) == (b"", str(len(photo)))

    file = address.removeprefix("/files/")
    stored = list((site.data / "uploads").iterdir())
    assert any(path.stat().st_size == len(photo) for path in stored)
    owner.submit(f"{page}/edit", f"/files/{file}/delete")
    owner.get(address, status=404)
    assert len(list((site.data / "uploads").iterdir())) == len(stored) - 1


def test_upload_that_is_none_of_the_kinds_is_refused(site: Site) -> None:
    """HTML in a PNG's clothes, nothing at all and too much of it are answered with a sentence."""
    owner = site.member()
    page = owner.add_thing("Camera")
    form = (f"{page}/edit", f"{page}/files")

    clothes = {"file": ("a.png", b"<script>alert(1)</script>", "image/png")}
    answer = owner.submit(*form, files=clothes, status=422)
    assert "neither JPEG, PNG, WebP nor PDF" in main_of(answer)
    assert "Choose a file first." in main_of(owner.submit(*form, status=422))
    answer = owner.submit(*form, files={"file": ("a.png", PNG + bytes(5_000_000))}, status=413)
    assert "up to 4 MB" in main_of(answer)
    assert "None yet." in main_of(owner.get(f"{page}/edit"))


def test_loan_from_asking_to_giving_back(site: Site) -> None:
    """Both are told at each step; the page, the shed and the export say how things stand."""
    owner, borrower = site.member(), site.member()
    page = owner.add_thing("=Ladder")
    due = date.today() + timedelta(days=10)

    answer = borrower.submit(page, f"{page}/ask", due="yesterday", status=422)
    assert "Not a valid date value." in main_of(answer)
    answer = borrower.submit(page, f"{page}/ask", due=str(date.today()), status=422)
    assert "Choose a day from tomorrow" in main_of(answer)
    answer = borrower.submit(page, f"{page}/ask", due=str(due), message="<b>please</b>")
    assert f"{owner.name} has been asked." in main_of(answer)
    assert "You have asked for it" in main_of(answer)

    assert "Inbox (1)" in owner.get("/").text
    assert f"{borrower.name} asks for your =Ladder." in main_of(owner.get("/inbox"))
    shed = owner.get("/shed")
    assert "&lt;b&gt;please&lt;/b&gt;" in shed.text
    (loan,) = re.findall(r"/loans/(\d+)/lend", shed.text)
    # The borrower cannot press the owner's button, with a token that is good for all forms.
    token = borrower.form("/account/")[1]["csrf_token"]
    stolen = borrower.http.post(f"/loans/{loan}/lend", data={"csrf_token": token})
    assert stolen.status_code == 403
    assert "Done." in main_of(owner.submit("/shed", f"/loans/{loan}/lend"))

    assert f"{owner.name} lends you =Ladder" in main_of(borrower.get("/inbox"))
    assert "You have it" in main_of(borrower.get(page))
    assert "out until" in main_of(site.visitor().get(page))
    refused = owner.submit(f"{page}/edit", f"{page}/delete", sure="y")
    assert "Somebody has it." in main_of(refused)
    owner.submit("/shed", f"/loans/{loan}/return")
    assert "=Ladder is back" in main_of(borrower.get("/inbox"))
    assert "Inbox (2)" in borrower.get("/").text
    borrower.submit("/inbox", "/inbox/read")
    assert "Inbox (" not in borrower.get("/").text

    export = borrower.get("/shed/loans.csv")
    assert export.headers["Content-Disposition"] == "attachment; filename=my-loans.csv"
    assert export.headers["Content-Type"].startswith("text/csv")
    rows = list(csv.reader(io.StringIO(export.text)))
    assert rows[0][:4] == ["thing", "owner", "borrower", "state"]
    assert [row[:4] for row in rows[1:]] == [["'=Ladder", owner.name, borrower.name, "returned"]]
    assert rows[1][5] == str(due)


def test_thing_is_lent_to_one_at_a_time(site: Site) -> None:
    """The owner says yes to eight at the same moment: one gets it, and seven are refused."""
    owner, *borrowers = site.crowd(9)
    page = owner.add_thing("The only one")
    due = str(date.today() + timedelta(days=3))
    at_once(lambda one: one.submit(page, f"{page}/ask", due=due), borrowers)
    shed = owner.get("/shed").text
    loans = re.findall(r"/loans/(\d+)/lend", shed)
    token = owner.form("/account/")[1]["csrf_token"]
    assert len(loans) == 8

    def lend(loan: str) -> int:
        sent = {"csrf_token": token}
        answer = owner.http.post(f"/loans/{loan}/lend", data=sent, follow_redirects=False)
        return answer.status_code

    assert at_once(lend, loans) == [302] * 8

    inboxes = [main_of(one.get("/inbox")) for one in borrowers]
    assert sum("lends you The only one" in text for text in inboxes) == 1
    assert len(re.findall(r"/loans/\d+/lend", owner.get("/shed").text)) == 7


def test_search_finds_what_was_typed_page_by_page(site: Site) -> None:
    """Wildcards are letters; kinds and pages are kept in the links; a page too far is none."""
    owner, word = site.member(), f"100%_{next(_numbers)}"
    for number in range(13):
        owner.add_thing(f"{word} no {number}", category="reading")
    visitor = site.visitor()

    first = visitor.get("/", params={"q": word.upper(), "category": "reading", "free": "yes"})
    assert "13 things, page 1 of 2" in main_of(first)
    (link,) = set(re.findall(r'href="(/\?[^"]*page=2[^"]*)"', first.text))
    second = visitor.get(unescape(link))
    assert "13 things, page 2 of 2" in main_of(second)
    assert f"{word} no 0" in main_of(second)
    assert "Nothing like that." in main_of(visitor.get("/", params={"q": word[:3] + "x"}))
    assert "Nothing like that." in main_of(
        visitor.get("/", params={"q": word, "category": "party"})
    )
    for page in ("3", "0", "-1", "9" * 30):
        visitor.get("/", params={"q": word, "page": page}, status=404)
    visitor.get("/?category=nonsense", status=404)


def test_export_is_streamed(site: Site, ada: Visitor) -> None:
    """A long table comes whole, whatever its length; to stop in the middle does no harm."""
    name = "x" * 4000  # Eight megabytes in all: more than the sockets hold.
    with site.database() as database:
        statement = "INSERT INTO things (owner_id, name, description, category, added)"
        thing = database.execute(
            f"{statement} VALUES (1, ?, '', 'party', '2020-01-01 10:00:00.000000')", [name]
        ).lastrowid
        statement = "INSERT INTO loans (thing_id, borrower_id, state, message, asked, due)"
        database.executemany(
            f"{statement} VALUES (?, 2, 'returned', '', '2020-01-01 10:00:00', '2020-01-02')",
            [[thing]] * 2000,
        )
    database.close()

    for _ in range(20):  # More than the pool has connections.
        with ada.http.stream("GET", "/reports/loans.csv") as answer:
            assert "Content-Length" not in answer.headers
            assert next(answer.iter_lines()).startswith("thing,owner,borrower")
    with ada.http.stream("GET", "/reports/loans.csv") as answer:
        lines = sum(
            line == f"{name},Ada,Bruno,returned,2020-01-01,2020-01-02,"
            for line in answer.iter_lines()
        )
    assert lines == 2000
    with site.database() as database:
        database.execute("DELETE FROM loans WHERE thing_id = ?", [thing])
        database.execute("DELETE FROM things WHERE id = ?", [thing])
    database.close()


def test_steward_is_made_by_a_command(site: Site) -> None:
    """The reports are for stewards; the command line makes one, while the server runs."""
    member = site.member()
    assert "Not yours" in member.get("/reports/", status=403).text
    assert "Reports" not in member.get("/").text

    assert site.flask("make-steward", member.name) == f"{member.name} is a steward.\n"

    figures = main_of(member.get("/reports/"))
    assert "Who lends most Ada" in figures
    assert "Tent for two of Chidi is with Ada." in figures


def test_shops_of_the_readme_have_prices(start: Any) -> None:
    """The shops to try it with answer at the addresses that the README tells Toolshed."""
    *command, option, port = readme_command("flask", "--app", "shops")
    server = start("-m", *command, option, "0", env={"PYTHONPATH": str(TOOLSHED)})
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    (setting,) = re.findall(r"^\$ export TOOLSHED_PRICE_SHOPS='(.+)'$", readme, re.MULTILINE)
    for address in json.loads(setting).values():
        path = address.removeprefix(f"http://127.0.0.1:{port}").replace("{name}", "pan%20%26%20pot")
        status, body = server.get(path)
        assert status == 200
        assert json.loads(body)["price"] > 0


# --- the API


def api(site: Site, secret: str) -> httpx.Client:
    client = httpx.Client(
        verify=False,
        base_url=site.server.url,
        headers={"Authorization": f"Bearer {secret}"},
        timeout=HANG,
        trust_env=False,
    )
    site.clients.append(client)
    return client


def token_of(member: Visitor) -> str:
    answer = member.submit("/account/tokens", label="a program")
    (secret,) = re.findall(r'id="secret">([^<]+)<', answer.text)
    assert isinstance(secret, str)
    return secret


def test_api_is_used_with_a_token(site: Site) -> None:
    """A program does in its member's name what the pages offer, and is told what is wrong."""
    owner, borrower = site.member(), site.member()
    lender, asker = (api(site, token_of(member)) for member in (owner, borrower))

    made = lender.post("/api/v1/things", json={"name": "Robot", "category": "workshop"})
    assert made.status_code == 201
    thing = lender.get(made.headers["Location"]).json()
    assert thing == made.json()
    assert (thing["name"], thing["owner"], thing["free"]) == ("Robot", owner.name, True)
    assert "Robot" in main_of(borrower.get(thing["url"]))

    due = {"due": str(date.today() + timedelta(days=2))}
    asked = asker.post(f"/api/v1/things/{thing['id']}/ask", json=due)
    assert (asked.status_code, asked.json()["state"]) == (201, "asked")
    again = asker.post(f"/api/v1/things/{thing['id']}/ask", json=due)
    assert (again.status_code, again.json()["message"]) == (409, "You have asked for it already.")
    own = lender.post(f"/api/v1/things/{thing['id']}/ask", json=due)
    assert (own.status_code, own.json()["message"]) == (409, "It is your own.")
    assert [loan["thing"] for loan in asker.get("/api/v1/loans").json()] == ["Robot"]
    assert asker.get("/api/v1/me").json() == {"name": borrower.name, "things": 0, "loans": 1}
    assert lender.get("/api/v1/me").json() == {"name": owner.name, "things": 1, "loans": 0}
    assert "Inbox (1)" in owner.get("/").text

    page, names = "/api/v1/things", []
    while page:
        listed = lender.get(page).json()
        names += [one["name"] for one in listed["things"]]
        page = listed["next"]
    assert len(names) == listed["total"]
    assert "Robot" in names


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b'{"name": "x", "category": "cars"}', 422, "name: Field must be between"),
        (b'{"name": 5}', 422, "name: This field is required."),
        (b"[]", 422, "JSON object"),
        (b"{", 400, ""),
    ],
)
def test_api_says_what_is_wrong(
    site: Site, tokens: dict[str, str], body: bytes, status: int, message: str
) -> None:
    """Bad input is answered with JSON that names the field."""
    client = api(site, tokens["secret"])
    answer = client.post(
        "/api/v1/things", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == status
    assert message in answer.json()["message"]


@pytest.fixture(scope="module")
def tokens(site: Site) -> dict[str, str]:
    return {"secret": token_of(site.member())}


def test_api_refuses_who_has_no_token(site: Site) -> None:
    """Neither nothing, nor a wrong or a revoked token, nor a session's cookie will do."""
    member = site.member()
    secret = token_of(member)
    assert api(site, secret).get("/api/v1/me").status_code == 200
    (action,) = re.findall(r"/account/tokens/\d+/delete", member.get("/account/tokens").text)
    member.submit("/account/tokens", action)

    for answer in (
        api(site, secret).get("/api/v1/me"),
        api(site, "x").post("/api/v1/things", json={}),
        member.http.get("/api/v1/me"),
        member.http.get("/api/v1/me", headers={"Authorization": "Basic QTpC"}),
        api(site, secret).get("/api/v1/things/1/prices"),
    ):
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].lower().startswith("bearer")
        assert answer.json()["error"] == "Unauthorized"
    missing = member.http.get("/api/v1/nowhere")
    assert (missing.status_code, missing.json()["error"]) == (404, "Not Found")


# --- coroutine views


def test_coroutine_views_ask_shops_for_many_at_once(site: Site) -> None:
    """The shop answers when all have asked: each page is then its own member's, on its thing."""
    members = site.crowd(Shops.PARTIES)
    pages = {one.name: one.add_thing(f"meet {'x' * number}") for number, one in enumerate(members)}

    answers = at_once(lambda one: (one, one.get(f"{pages[one.name]}/prices")), members)

    for one, answer in answers:
        assert f'<a href="/account/">{one.name}</a>' in answer.text
        said = main_of(answer)
        thing = f"meet {'x' * members.index(one)}".strip()
        assert f"{one.name} lends you {thing} for nothing." in said
        assert f"Open {len(thing)}.50 €" in said
        assert "Closed no answer" in said


def test_coroutine_view_of_the_api(site: Site) -> None:
    """JSON from the coroutine view: with a token, and with a shop that is broken."""
    member = site.member()
    client = api(site, token_of(member))
    number = member.add_thing("secret").split("/")[-1].partition("-")[0]
    answer = client.get(f"/api/v1/things/{number}/prices")
    assert answer.json() == {"name": "secret", "prices": {"Open": None, "Closed": None}}
    assert client.get("/api/v1/things/999999999/prices").status_code == 404
    page = site.visitor().get(f"/things/{number}/prices")
    assert page.url.path == "/auth/login"


# --- many at once


def test_members_at_once_see_only_what_is_theirs(site: Site) -> None:
    """Five work side by side, on every kind of page; nothing of one is shown to another."""
    members = site.crowd(5)

    def work(one: Visitor) -> str:
        mark = f"mark-of-{one.name}-end"
        other = [f"mark-of-{member.name}-end" for member in members if member is not one]
        seen = []
        for number in range(2):
            page = one.add_thing(f"{mark} {number}", description=mark)
            seen.append(one.submit(page, f"{page}/comments", text=mark))
            photo = PNG + mark.encode() * 20_000
            seen.append(
                one.submit(f"{page}/edit", f"{page}/files", files={"file": ("a.png", photo)})
            )
            (address,) = re.findall(r'<img src="(/files/\d+)"', one.get(page).text)
            assert one.get(address).content == photo
            seen += [one.get("/shed"), one.get(f"{page}/prices"), one.get("/account/")]
            answer = one.submit("/account/", about=mark)
            assert "Saved." in answer.text
            seen.append(answer)
            assert one.form("/account/")[1]["about"] == mark
        for answer in seen:
            assert re.search(rf'href="/account/"[^>]*>{one.name}<', answer.text)
            assert not [text for text in other if text in answer.text]
        return one.get("/shed/loans.csv").text

    for one, export in zip(members, at_once(work, members), strict=True):
        assert all(one.name in line for line in export.splitlines()[1:])
