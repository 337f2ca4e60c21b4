"""Flask's URL adapters, made once for each host instead of once for each request.

An adapter is the URL map bound to one request. All of it but the path, the query and the method
comes from the host, the scheme and the app's configuration; finding those out anew takes Flask a
tenth of its time for a small request.
"""

from __future__ import annotations

from typing import Any, Final

from flask import Flask, Request
from werkzeug.routing import Map, MapAdapter

#: For how many hosts adapters are kept: a client may name any.
_HOSTS_KEPT: Final = 256


class UrlAdapters:
    """Makes the URL adapters of one app as :meth:`flask.Flask.create_url_adapter` does.

    An app or a map that has methods of its own for it is left alone.
    """

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._create_plainly = app.create_url_adapter
        #: For a host and what else counts: ``request.host``, and what adapters have in common.
        self._patterns: dict[
            tuple[Any, ...], tuple[str, tuple[Map, str, str, str | None, str]]
        ] = {}
        self._is_plain = type(
            app
        ).create_url_adapter is Flask.create_url_adapter and "create_url_adapter" not in vars(app)

    def create(self, request: Request | None) -> MapAdapter | None:
        """Return the adapter of a request, or of none."""
        app = self._app
        config = app.config
        if (
            request is None
            or not self._is_plain
            or type(app.url_map) is not Map
            or config["TRUSTED_HOSTS"] is not None
            or request.trusted_hosts is not None
        ):
            return self._create_plainly(request)
        environ = request.environ
        get = environ.get
        key = (
            app.url_map,
            config["SERVER_NAME"],
            app.subdomain_matching,
            get("HTTP_HOST"),
            get("SERVER_NAME"),
            get("SERVER_PORT"),
            get("wsgi.url_scheme"),
            get("SCRIPT_NAME"),
            get("HTTP_CONNECTION"),
            get("HTTP_UPGRADE"),
        )
        found = self._patterns.get(key)
        if found is None:
            adapter = self._create_plainly(request)
            if type(adapter) is MapAdapter:
                if len(self._patterns) >= _HOSTS_KEPT:
                    self._patterns.clear()
                self._patterns[key] = (
                    request.host,
                    (
                        adapter.map,
                        adapter.server_name,
                        adapter.script_name,
                        adapter.subdomain,
                        adapter.url_scheme,
                    ),
                )
            return adapter
        request.host, common = found
        path = get("PATH_INFO")
        return MapAdapter(
            *common,
            "/" if path is None else _decoded(path),
            environ["REQUEST_METHOD"],
            _decoded(get("QUERY_STRING")),
        )


def _decoded(native: Any) -> Any:
    """Decode what the environ holds as latin-1, as Werkzeug does (PEP 3333, "Unicode Issues")."""
    if native is None:
        return None
    return native if native.isascii() else native.encode("latin-1").decode(errors="replace")
