"""The worker for gunicorn behind a real nginx, which has the configuration of the documentation."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import hashlib
import io
import ipaddress
import json
import os
import pwd
import re
import shutil
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

NGINX = shutil.which("nginx", path=os.pathsep.join([os.environ["PATH"], "/usr/sbin"]))
PAGE = Path(__file__).parents[1] / "docs" / "deploying.md"
#: Seconds after which something counts as hanging; no statement about speed.
HANG = 60
#: More than any buffer between the two ends holds.
LARGE = 40_000_000

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")

APP = """
import asyncio
import hashlib
import os

from flask import Flask, Response, request
from flask_aio_core import AioHTTP
from flask_aio_ws import websocket, ws
from werkzeug.middleware.proxy_fix import ProxyFix

app = Flask(__name__)
aio = AioHTTP(app)
if "PROXY_FIX" in os.environ:
    app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1, x_host=1, x_prefix=1)
wanted = asyncio.Event()
ended = asyncio.Event()


@app.route("/", methods=["GET", "POST"])
async def index():
    return f"{request.method} {len(request.get_data())}"


@app.get("/seen")
async def seen():
    return {
        "scheme": request.environ["wsgi.url_scheme"],
        "host": request.host,
        "root": request.script_root,
        "path": request.path,
        "client": request.remote_addr,
        "port": request.environ.get("REMOTE_PORT"),
        "pid": os.getpid(),
    }


@app.get("/synchronous")
def synchronous():
    return "from a thread"


@app.get("/stream")
async def stream():
    async def pieces():
        yield "first"
        await wanted.wait()
        yield "second"

    wanted.clear()
    return Response(pieces(), content_type="text/plain")


@app.get("/events")
async def events():
    async def pieces():
        yield "data: first\\n\\n"
        await wanted.wait()
        yield "data: second\\n\\n"

    wanted.clear()
    return Response(pieces(), content_type="text/event-stream")


@app.post("/want")
async def want():
    wanted.set()
    return ""


@app.get("/endless")
async def endless():
    async def pieces():
        try:
            yield "first"
            await asyncio.Event().wait()
        finally:
            ended.set()

    return Response(pieces(), content_type="text/plain")


@app.get("/ended")
async def wait_for_end():
    await ended.wait()
    return ""


@app.post("/upload")
async def upload():
    digest, size = hashlib.sha256(), 0
    while piece := request.stream.read(65536):
        digest.update(piece)
        size += len(piece)
    return {"size": size, "sha256": digest.hexdigest()}


@app.post("/begin")
async def begin():
    size = len(request.stream.read(1))
    wanted.set()
    while piece := request.stream.read(65536):
        size += len(piece)
    return {"size": size}


@app.get("/begun")
async def begun():
    await wanted.wait()
    return ""


@app.get("/download/<int:size>")
async def download(size):
    async def pieces():
        for start in range(0, size, 65536):
            yield bytes(min(65536, size - start))

    return Response(pieces(), content_type="application/octet-stream")


@app.route("/echo")
@websocket
async def echo():
    async for message in ws:
        await ws.send_str(message.data)
"""


@dataclass
class Site:
    """An app behind nginx: the addresses that nginx listens at, and gunicorn's process."""

    redirected: str
    http: str
    https: str
    gunicorn: Any


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key."""
    directory = tmp_path_factory.mktemp("certificate")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = directory / "certificate.pem", directory / "key.pem"
    certificate_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certificate_file, key_file


def published() -> list[str]:
    """The configurations for nginx that the documentation shows."""
    return re.findall(r"^```nginx\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def put(text: str, replacements: dict[str, str]) -> str:
    """Replace what differs from machine to machine, each exactly once."""
    for old, new in replacements.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def configuration(
    directory: Path, upstream: str, ports: tuple[int, int, int], certificate: tuple[Path, Path]
) -> str:
    """Return a whole configuration around the published part.

    The plain HTTP of the tests is served like the published HTTPS; the published one redirects.
    """
    site, location = published()
    redirected, http, https = ports
    site = put(
        site,
        {
            "unix:/run/hello/gunicorn.sock": upstream,
            "listen 80;": f"listen 127.0.0.1:{redirected};",
            "listen 443 ssl;": f"listen 127.0.0.1:{http}; listen 127.0.0.1:{https} ssl;",
            "/etc/ssl/example.org.pem": str(certificate[0]),
            "/etc/ssl/example.org.key": str(certificate[1]),
            "    location / {": f"{location}\n    location / {{",
        },
    )
    user = f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else ""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "\n".join(f"{kind}_temp_path {directory}/{kind};" for kind in kinds)
    return f"""
        {user}
        daemon off;
        worker_processes 1;
        pid {directory}/nginx.pid;
        error_log stderr notice;
        events {{ worker_connections 512; }}
        http {{
            access_log off;
            {temporary}
            {site}
        }}
    """


def free_ports() -> tuple[int, int, int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        first, second, third = (one.getsockname()[1] for one in sockets)
    return first, second, third


def start_nginx(
    start: Any, directory: Path, upstream: str, certificate: tuple[Path, Path]
) -> tuple[int, int, int]:
    """Start nginx on free ports; return those that redirect, serve HTTP, and serve HTTPS."""
    assert NGINX is not None
    execute = "import os, sys; os.execv(sys.argv[1], sys.argv[1:])"
    config = directory / "nginx.conf"
    while True:
        ports = free_ports()
        config.write_text(configuration(directory, upstream, ports, certificate))
        options = (NGINX, "-p", str(directory), "-c", str(config), "-e", "stderr")
        nginx = start("-c", execute, *options, ready=False)
        nginx.wait_for(re.compile("start worker process |Address already in use|emerg"))
        if "Address already in use" not in nginx.output:
            assert "emerg" not in nginx.output, nginx.output
            return ports
        nginx.kill()


@pytest.fixture(params=["unix", "tcp"])
def serve(
    request: pytest.FixtureRequest, start: Any, tmp_path: Path, certificate: tuple[Path, Path]
) -> Callable[..., Site]:
    """Start gunicorn and nginx, connected by a unix socket or by TCP."""

    def run(*options: str, proxy_fix: bool = False) -> Site:
        unix = f"unix:{tmp_path}/gunicorn.sock"
        gunicorn = start(
            *("-m", "gunicorn", "app:app", "-k", "flask_aio_gunicorn.AioWorker"),
            *("--bind", unix if request.param == "unix" else "127.0.0.1:0"),
            *("--keep-alive", "75", "--no-control-socket", *options),
            app=APP,
            env={"PROXY_FIX": "yes"} if proxy_fix else {},
            warnings="default",
        )
        upstream = unix if request.param == "unix" else f"127.0.0.1:{gunicorn.port}"
        directory = tmp_path / "nginx"
        directory.mkdir()
        redirected, http, https = start_nginx(start, directory, upstream, certificate)
        return Site(
            f"http://127.0.0.1:{redirected}",
            f"http://127.0.0.1:{http}",
            f"https://127.0.0.1:{https}",
            gunicorn,
        )

    return run


@pytest.fixture
async def client(certificate: tuple[Path, Path]) -> AsyncIterator[aiohttp.ClientSession]:
    """A client that knows the certificate, and waits no longer than for something that hangs."""
    context = ssl.create_default_context(cafile=certificate[0])
    connector = aiohttp.TCPConnector(ssl=context, limit=0)
    timeout = aiohttp.ClientTimeout(total=HANG)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield session


async def get_json(client: aiohttp.ClientSession, url: str, **options: Any) -> Any:
    async with client.get(url, **options) as answer:
        assert answer.status == 200
        return await answer.json()


async def test_pages_of_both_kinds_are_served_over_http_and_https(serve, client):
    """Coroutine and synchronous views answer through nginx, and POST arrives with its body."""
    site = serve()
    for base in (site.http, site.https):
        async with client.get(f"{base}/") as answer:
            assert (answer.status, await answer.text()) == (200, "GET 0")
            assert answer.headers["Server"].startswith("nginx")
        async with client.post(f"{base}/", data=b"x" * 1000) as answer:
            assert await answer.text() == "POST 1000"
        async with client.get(f"{base}/synchronous") as answer:
            assert await answer.text() == "from a thread"


@pytest.mark.parametrize("path", ["/stream", "/events"])
async def test_first_piece_arrives_before_the_second_is_made(serve, client, path):
    """Neither nginx nor the worker collects a stream: its second piece waits for our request."""
    site = serve()
    async with client.get(site.https + path) as answer:
        first = await answer.content.readany()
        assert b"first" in first
        assert b"second" not in first
        async with client.post(f"{site.https}/want") as wanted:
            assert wanted.status == 200
        assert b"second" in await answer.content.read()


@pytest.mark.parametrize("proxy_fix", [False, True])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_websocket_of_the_own_origin_passes_and_others_do_not(
    serve, client, scheme, proxy_fix
):
    """The upgrade goes through, and the origin check knows the host that the browser asked for."""
    site = serve(proxy_fix=proxy_fix)
    base = getattr(site, scheme)
    async with client.ws_connect(f"{base}/echo", origin=base) as socket:
        for text in ("one", "two", "x" * 100_000):
            await socket.send_str(text)
            assert await socket.receive_str() == text
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await client.ws_connect(f"{base}/echo", origin="https://evil.example")
    assert refused.value.status == 403


async def test_proxy_fix_sees_what_the_client_has_asked_for(serve, client):
    """With ProxyFix the app knows the client's address, scheme, host and prefix."""
    site = serve(proxy_fix=True)
    forged = {
        "X-Forwarded-For": "192.0.2.66",
        "X-Forwarded-Proto": "gopher",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Prefix": "/evil",
    }
    for base in (site.http, site.https):
        scheme, host = base.split("://")
        for headers in ({}, forged):
            for prefix in ("", "/shop"):
                seen = await get_json(client, f"{base}{prefix}/seen", headers=headers)
                assert (seen["scheme"], seen["host"]) == (scheme, host)
                assert (seen["root"], seen["path"]) == (prefix, "/seen")
                assert seen["client"] == "127.0.0.1"


async def test_scheme_is_known_without_proxy_fix_by_a_trusted_peer(serve, client):
    """X-Forwarded-Proto of nginx is believed: over a unix socket, and from 127.0.0.1."""
    site = serve()
    for base in (site.http, site.https):
        forged = {"X-Forwarded-Proto": "https"}
        for headers in ({}, forged):
            seen = await get_json(client, f"{base}/seen", headers=headers)
            assert seen["scheme"] == base.partition("://")[0]


@pytest.mark.parametrize("serve", ["tcp"], indirect=True)
async def test_scheme_of_an_untrusted_peer_is_not_believed(serve, client):
    """An nginx whose address is not in forwarded_allow_ips cannot say that it was https."""
    site = serve("--forwarded-allow-ips", "192.0.2.1")
    assert (await get_json(client, f"{site.https}/seen"))["scheme"] == "http"


async def test_large_upload_and_download_arrive_whole(serve, client):
    """Bodies larger than all buffers go through in both directions."""
    site = serve()
    body = os.urandom(1000) * (LARGE // 1000)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, LARGE, 100_000):
            yield body[start : start + 100_000]

    for data in (io.BytesIO(body), pieces()):
        async with client.post(f"{site.https}/upload", data=data) as answer:
            described = await answer.json()
        assert described == {"size": LARGE, "sha256": hashlib.sha256(body).hexdigest()}

    async with client.get(f"{site.https}/download/{LARGE}") as answer:
        size = 0
        async for piece in answer.content.iter_any():
            size += len(piece)
    assert size == LARGE


async def test_upload_is_not_collected_by_nginx(serve, client):
    """The view reads the first bytes of an upload whose rest the client has not sent yet."""
    site = serve()

    async def pieces() -> AsyncIterator[bytes]:
        yield b"x"
        async with client.get(f"{site.http}/begun") as answer:
            assert answer.status == 200
        yield b"yz"

    async with client.post(f"{site.http}/begin", data=pieces()) as answer:
        assert await answer.json() == {"size": 3}


async def test_client_that_leaves_ends_its_stream(serve, client):
    """nginx closes its connection when the client goes, and the stream's finally block runs."""
    site = serve()
    answer = await client.get(f"{site.https}/endless")
    assert await answer.content.readany() == b"first"
    waiting = asyncio.create_task(client.get(f"{site.https}/ended"))
    async with client.get(f"{site.https}/") as other:
        assert other.status == 200
    assert not waiting.done()
    assert answer.connection is not None
    assert answer.connection.transport is not None
    answer.connection.transport.abort()
    async with await waiting as told:
        assert told.status == 200


@pytest.mark.parametrize("serve", ["tcp"], indirect=True)
async def test_connections_to_the_server_are_kept_and_used_again(serve, client):
    """nginx sends all requests of one client, made one after the other, on one connection."""
    site = serve()
    ports = {(await get_json(client, f"{site.http}/seen"))["port"] for _ in range(300)}
    assert len(ports) == 1


async def test_hundreds_of_requests_on_kept_connections_without_a_bad_gateway(serve, client):
    """Many clients at once, on connections that are used again: every request is answered."""
    site = serve("--workers", "2")
    statuses: list[int] = []

    async def browse(base: str) -> None:
        for number in range(60):
            method = "POST" if number % 2 else "GET"
            async with client.request(method, f"{base}/", data=b"x" * number) as answer:
                statuses.append(answer.status)
                assert await answer.text() == f"{method} {number}"

    await asyncio.gather(*(browse(base) for base in (site.http, site.https) for _ in range(10)))
    assert statuses == [200] * 1200


async def test_reload_under_load_loses_no_request(serve, client, wait_until):
    """While HUP replaces all workers, twice, no request gets a bad gateway, POST or GET."""
    site = serve("--workers", "2")
    statuses: list[int] = []
    pids: set[int] = set()
    over = asyncio.Event()

    async def browse(number: int) -> None:
        while not over.is_set():
            if number % 2:
                async with client.post(f"{site.http}/", data=b"x" * 100) as answer:
                    statuses.append(answer.status)
                    await answer.read()
            else:
                async with client.get(f"{site.http}/seen") as answer:
                    statuses.append(answer.status)
                    pids.add(json.loads(await answer.read())["pid"])

    async def until(condition: Callable[[], object]) -> None:
        await asyncio.to_thread(wait_until, condition)

    async with asyncio.TaskGroup() as group:
        for number in range(12):
            group.create_task(browse(number))
        try:
            await until(partial(has_more, statuses, 200))
            for reload in (1, 2):
                site.gunicorn.send_signal(signal.SIGHUP)
                await until(partial(is_replaced, site.gunicorn, 2 * reload, pids))
                enough = len(statuses) + 200
                await until(partial(has_more, statuses, enough))
        finally:
            over.set()

    assert set(statuses) == {200}
    assert site.gunicorn.output.count("Booting worker") == 6
    assert site.gunicorn.stop(signal.SIGTERM) == 0


def is_replaced(gunicorn: Any, count: int, pids: set[int]) -> bool:
    """Whether so many workers have ended, and one of the last two has answered."""
    booted = [int(pid) for pid in re.findall(r"Booting worker with pid: (\d+)", gunicorn.output)]
    return gunicorn.output.count("Worker exiting") == count and not pids.isdisjoint(booted[-2:])


def has_more(items: list[int], count: int) -> bool:
    return len(items) > count


@pytest.mark.parametrize("serve", ["unix"], indirect=True)
async def test_published_redirect_leads_to_https(serve, client):
    """The first server of the configuration sends browsers to the same address over https."""
    site = serve()
    headers = {"Host": "example.org"}
    url = f"{site.redirected}/a?b=c"
    async with client.get(url, headers=headers, allow_redirects=False) as answer:
        assert answer.status == 301
        assert answer.headers["Location"] == "https://example.org/a?b=c"
