"""Flask's URL adapters, made once for each host."""

from __future__ import annotations

import pytest
from flask import Flask, url_for
from flask.globals import request_ctx
from werkzeug.routing import Map, MapAdapter
from werkzeug.test import EnvironBuilder

from flask_aio_core import AioHTTP
from flask_aio_core.url_adapters import UrlAdapters

ENVIRONS = [
    {"path": "/"},
    {"path": "/item/7", "query_string": "a=1&b=%C3%A4", "method": "POST"},
    {"path": "/caf\u00e9/\u65e5\u672c", "query_string": "q=\u00e4"},
    {"path": "/", "base_url": "https://shop.example:8443/prefix"},
    {"path": "/", "base_url": "http://SHOP.example"},
    {"path": "/", "base_url": "https://b\u00fccher.example/"},
    {"path": "/echo", "headers": {"Connection": "keep-alive, Upgrade", "Upgrade": "websocket"}},
    {"path": "/", "environ_overrides": {"PATH_INFO": ""}},
    {"path": "//double//slash"},
]


def adapters(app, options):
    """Return what an app's adapter and host are for a request: made anew, then from memory."""
    found = []
    for _ in range(2):
        builder = EnvironBuilder(**options)
        made = app.request_class(builder.get_environ())
        adapter = app.create_url_adapter(made)
        attributes = {key: value for key, value in vars(adapter).items() if key != "map"}
        found.append((type(adapter), attributes, made.host))
    return found


@pytest.mark.parametrize("options", ENVIRONS, ids=lambda options: str(options)[:40])
@pytest.mark.parametrize(
    "config", [{}, {"SERVER_NAME": "shop.example"}, {"SERVER_NAME": "localhost:80"}], ids=str
)
@pytest.mark.parametrize(
    "flask_options",
    [{}, {"subdomain_matching": True}, {"host_matching": True, "static_host": "x"}],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Current server name")
def test_an_adapter_is_the_one_that_flask_makes(flask_options, config, options):
    """Every attribute and request.host are equal, for the first request of a host and the next."""
    plain, ours = Flask("plain", **flask_options), Flask("ours", **flask_options)
    plain.config.update(config)
    ours.config.update(config)
    AioHTTP(ours, plugins=[])

    expected = adapters(plain, options)

    assert adapters(ours, options) == expected


def test_requests_of_one_host_do_not_share_an_adapter(app, aio):
    """A view that changes its adapter changes it for itself."""

    @app.get("/")
    def view():
        adapter = request_ctx.url_adapter
        address = url_for("view", _external=True)
        assert adapter is not None
        adapter.server_name = "other.example"
        return address

    client = app.test_client()
    assert [client.get("/").text for _ in range(3)] == ["http://localhost/"] * 3


def test_a_configuration_that_changes_is_followed(app, aio):
    """Trusted hosts that are set later are checked."""

    @app.get("/")
    def view():
        return "x"

    client = app.test_client()
    assert client.get("/").status_code == 200
    app.config["TRUSTED_HOSTS"] = ["other.example"]
    assert client.get("/").status_code == 400


def test_an_app_with_a_method_of_its_own_is_left_alone():
    """A subclass that chooses by anything else of the request is asked each time."""
    calls = []

    class Shop(Flask):
        def create_url_adapter(self, request):
            calls.append(request)
            return super().create_url_adapter(request)

    shop = Shop("shop")
    AioHTTP(shop)
    for _ in range(2):
        shop.create_url_adapter(shop.request_class(EnvironBuilder("/").get_environ()))
    assert len(calls) == 2


def test_a_map_with_a_method_of_its_own_is_left_alone():
    """So is one whose map binds in its own way."""
    calls = []

    class Tenants(Map):
        def bind_to_environ(self, *args, **kwargs):
            calls.append(args)
            return super().bind_to_environ(*args, **kwargs)

    class Shop(Flask):
        url_map_class = Tenants

    shop = Shop("shop")
    AioHTTP(shop)
    for _ in range(2):
        assert isinstance(
            shop.create_url_adapter(shop.request_class(EnvironBuilder("/").get_environ())),
            MapAdapter,
        )
    assert len(calls) == 2


def test_a_client_that_names_many_hosts_does_not_fill_the_memory(app):
    """Adapters of a bounded number of hosts are kept."""
    made = UrlAdapters(app)
    for number in range(1000):
        builder = EnvironBuilder("/", base_url=f"http://h{number}.example")
        made.create(app.request_class(builder.get_environ()))
    assert len(made._patterns) <= 256
