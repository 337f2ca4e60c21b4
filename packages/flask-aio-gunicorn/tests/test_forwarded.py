"""What a proxy in front may say: scheme, SCRIPT_NAME, headers with underscores."""

from __future__ import annotations

import http.client
import socket

import pytest

APP = """
from flask import Flask, request, url_for
from werkzeug.middleware.proxy_fix import ProxyFix

app = Flask(__name__)


@app.get("/environ")
async def environ():
    return {
        **{key: value for key, value in request.environ.items() if isinstance(value, str)},
        "url": url_for("environ", _external=True),
        "local": url_for("environ"),
    }


@app.get("/")
async def index():
    return "index"


@app.get("/synchronous")
def synchronous():
    return url_for("synchronous", _external=True)


fixed = Flask("fixed")
fixed.add_url_rule("/environ", view_func=environ)
fixed.wsgi_app = ProxyFix(fixed.wsgi_app, x_for=1, x_proto=1, x_host=1, x_prefix=1)
"""


@pytest.fixture(scope="module")
def trusting(shared_gunicorn):
    """A server with gunicorn's defaults, which trust 127.0.0.1."""
    return shared_gunicorn(app=APP)


@pytest.fixture(scope="module")
def distrustful(shared_gunicorn):
    """A server that trusts a proxy which is not this client, and knows all its headers."""
    return shared_gunicorn(
        *("--forwarded-allow-ips", "10.0.0.1,192.168.0.0/16", "--forwarder-headers", "*"), app=APP
    )


def _raw(server, *headers, path="/environ"):
    lines = [f"GET {path} HTTP/1.1", "Host: example.org", *headers, "Connection: close", "", ""]
    return server.exchange("\r\n".join(lines).encode("latin-1"))


@pytest.mark.parametrize(
    "header",
    ["X-Forwarded-Proto: https", "X-Forwarded-Protocol: ssl", "X-Forwarded-Ssl: on"],
)
def test_scheme_from_a_trusted_peer(trusting, header):
    """By each of gunicorn's default headers a trusted peer can say that it was asked by https."""
    environ = _raw(trusting, header).json
    assert environ["wsgi.url_scheme"] == "https"
    assert environ["url"] == "https://example.org/environ"
    assert _raw(trusting, header, path="/synchronous").text == "https://example.org/synchronous"


def test_scheme_that_is_not_secure(trusting):
    """Any other value, and no header at all, are http."""
    for header in (
        *("X-Forwarded-Proto: http", "X-Forwarded-Ssl: off", "X-Other: https"),
        # Some proxies append to what they got; gunicorn compares the whole field.
        *("X-Forwarded-Proto: https,http", "X-Forwarded-Proto: https, https"),
    ):
        environ = _raw(trusting, header).json
        assert environ["wsgi.url_scheme"] == "http"
        assert environ["url"] == "http://example.org/environ"


@pytest.mark.parametrize(
    "headers",
    [
        ("X-Forwarded-Proto: https", "X-Forwarded-Ssl: off"),
        ("X-Forwarded-Proto: http", "X-Forwarded-Protocol: ssl"),
        ("X-Forwarded-Proto: https", "X-Forwarded-Proto: http"),
    ],
)
def test_contradictory_schemes(trusting, distrustful, headers):
    """Headers that contradict each other are refused, unless nobody believes them."""
    assert _raw(trusting, *headers).status == 400
    response = _raw(distrustful, *headers)
    assert (response.status, response.json["wsgi.url_scheme"]) == (200, "http")


def test_schemes_that_agree(trusting):
    """Several headers may say the same."""
    headers = ("X-Forwarded-Proto: https", "X-Forwarded-Ssl: on", "X-Forwarded-Protocol: ssl")
    assert _raw(trusting, *headers).json["wsgi.url_scheme"] == "https"


def test_untrusted_peer(distrustful):
    """A peer that is not in forwarded_allow_ips decides neither the scheme nor SCRIPT_NAME."""
    environ = _raw(
        distrustful, "X-Forwarded-Proto: https", "SCRIPT_NAME: /environ", "REMOTE_USER: root"
    ).json
    assert environ["wsgi.url_scheme"] == "http"
    assert environ["url"] == "http://example.org/environ"
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("", "/environ")
    assert not {"HTTP_SCRIPT_NAME", "HTTP_REMOTE_USER", "REMOTE_USER"} & set(environ)
    # The app may still look at it: it is a header like any other.
    assert environ["HTTP_X_FORWARDED_PROTO"] == "https"


@pytest.mark.parametrize("allowed", ["127.0.0.0/8", "*", "10.0.0.1,127.0.0.1"])
def test_trusted_networks(gunicorn, allowed):
    """Networks, lists and the asterisk are understood."""
    server = gunicorn("--forwarded-allow-ips", allowed, app=APP)
    assert _raw(server, "X-Forwarded-Proto: https").json["wsgi.url_scheme"] == "https"


def test_unix_socket_is_trusted(gunicorn, tmp_path):
    """Who can connect to a unix socket is trusted, whatever the addresses are."""
    gunicorn("--forwarded-allow-ips", "10.0.0.1", app=APP, bind=f"unix:{tmp_path}/socket")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(f"{tmp_path}/socket")
        client.sendall(
            b"GET /environ HTTP/1.1\r\nHost: example.org\r\nX-Forwarded-Proto: https\r\n\r\n"
        )
        response = http.client.HTTPResponse(client)
        response.begin()
        body = response.read().decode()
        response.close()
    assert '"url":"https://example.org/environ"' in body
    assert '"SERVER_PORT":"443"' in body


def test_own_scheme_headers(gunicorn):
    """secure_scheme_headers of the configuration file replaces the default."""
    server = gunicorn(app=APP, config='secure_scheme_headers = {"X-OUR-TLS": "yes"}')
    assert _raw(server, "x-our-tls: yes").json["url"] == "https://example.org/environ"
    assert _raw(server, "x-our-tls: no").json["wsgi.url_scheme"] == "http"
    assert _raw(server, "X-Forwarded-Proto: https").json["wsgi.url_scheme"] == "http"


def test_script_name_header(trusting):
    """A trusted peer can say where the app is mounted, by gunicorn's default headers."""
    response = _raw(trusting, "SCRIPT_NAME: /shop", path="/shop/environ?a=1")
    environ = response.json
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/shop", "/environ")
    assert environ["RAW_URI"] == "/shop/environ?a=1"
    assert environ["local"] == "/shop/environ"
    assert environ["HTTP_SCRIPT_NAME"] == "/shop"
    assert _raw(trusting, "script_name: /shop", path="/shop").status in (200, 308)
    for path in ("/environ", "/shopping/environ"):
        assert _raw(trusting, "SCRIPT_NAME: /shop", path=path).status == 404
    # The next request is not affected.
    assert _raw(trusting).json["SCRIPT_NAME"] == ""


def test_headers_with_underscores(trusting):
    """A header with an underscore never passes for the one with a hyphen, unless it is listed."""
    environ = _raw(trusting, "X_Forwarded_For: 6.6.6.6", "X-Real: yes", "X_Real: no").json
    assert "HTTP_X_FORWARDED_FOR" not in environ
    assert environ["HTTP_X_REAL"] == "yes"


def test_forwarder_headers(gunicorn):
    """With forwarder_headers, a trusted peer's headers with underscores reach the app."""
    server = gunicorn(
        "--forwarder-headers", "SCRIPT_NAME,REMOTE_USER", "--header-map", "refuse", app=APP
    )
    environ = _raw(server, "REMOTE_USER: alice").json
    assert environ["HTTP_REMOTE_USER"] == "alice"
    # Only those: header_map is for the others.
    response = _raw(server, "X_Other: 1")
    assert response.status == 400
    assert "X_OTHER" in response.text
    assert _raw(server, "X-Other: 1").status == 200


def test_mounted_by_the_environment(gunicorn):
    """SCRIPT_NAME of the environment is where the app is mounted; a proxy's header precedes it."""
    server = gunicorn("--env", "SCRIPT_NAME=/shop", app=APP)
    environ = _raw(server, path="/shop/environ").json
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/shop", "/environ")
    assert environ["url"] == "http://example.org/shop/environ"
    assert _raw(server, path="/shop/synchronous").text == "http://example.org/shop/synchronous"
    assert _raw(server, path="/shop/").text == "index"
    for path in ("/environ", "/", "/shopping", "/shopping/environ"):
        assert _raw(server, path=path).status == 404
    environ = _raw(server, "SCRIPT_NAME: /other", path="/other/environ").json
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/other", "/environ")


def test_proxy_fix(gunicorn):
    """werkzeug's ProxyFix in the app still does its work, also with SCRIPT_NAME's prefix."""
    server = gunicorn("--forwarded-allow-ips", "10.0.0.1", app=APP, name="app:fixed")
    environ = _raw(
        server,
        "X-Forwarded-For: 9.9.9.9",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: shop.example",
        "X-Forwarded-Prefix: /prefix",
    ).json
    assert environ["REMOTE_ADDR"] == "9.9.9.9"
    assert environ["url"] == "https://shop.example/prefix/environ"
