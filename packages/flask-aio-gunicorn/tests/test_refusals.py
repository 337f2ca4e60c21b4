"""Settings that cannot be honoured are refused, before a worker starts."""

from __future__ import annotations

import re

import pytest
from gunicorn.config import Config

from flask_aio_gunicorn.settings import _REFUSED

#: For each setting a value that is not its default: as options, or the text of gunicorn.conf.py.
VALUES = {
    "http2_cleartext": ["--http2-cleartext", "upgrade"],
    "http2_max_concurrent_streams": ["--http2-max-concurrent-streams", "10"],
    "http2_initial_window_size": ["--http2-initial-window-size", "70000"],
    "http2_max_frame_size": ["--http2-max-frame-size", "20000"],
    "http2_max_header_list_size": ["--http2-max-header-list-size", "1000"],
    "http_protocols": ["--http-protocols", "h2,h1"],
    "http_parser": ["--http-parser", "python"],
    "permit_obsolete_folding": ["--permit-obsolete-folding"],
    "strip_header_spaces": ["--strip-header-spaces"],
    "permit_unconventional_http_method": ["--permit-unconventional-http-method"],
    "permit_unconventional_http_version": ["--permit-unconventional-http-version"],
    "casefold_http_method": ["--casefold-http-method"],
    "protocol": ["--protocol", "uwsgi"],
    "suppress_ragged_eofs": "suppress_ragged_eofs = False",
    "asgi_loop": ["--asgi-loop", "uvloop"],
    "asgi_lifespan": ["--asgi-lifespan", "off"],
    "asgi_disconnect_grace_period": ["--asgi-disconnect-grace-period", "9"],
    "websocket_max_message_size": ["--websocket-max-message-size", "1000"],
    "root_path": ["--root-path", "/api"],
    "header_map": ["--header-map", "dangerous"],
    "worker_connections": ["--worker-connections", "0"],
}


def assert_refused(server, line):
    """Assert that the master has ended before a worker started, with one line that says why."""
    assert server.wait() == 1
    errors = [one for one in server.output.splitlines() if one.startswith("Error: ")]
    assert len(errors) == 1, server.output
    assert re.match(f"Error: ({line})", errors[0]), errors[0]
    assert "Booting worker" not in server.output
    assert "Traceback" not in server.output


def test_every_refused_setting_is_tested():
    """The settings above are those that are refused."""
    assert VALUES.keys() == {*_REFUSED, "header_map", "worker_connections"}


@pytest.fixture(scope="module")
def refused(shared_gunicorn):
    """A gunicorn for each setting, by its name; all at once, because none lasts."""
    servers = {}
    for name, value in VALUES.items():
        if name not in Config().settings:
            continue
        if isinstance(value, str):
            servers[name] = shared_gunicorn(config=value, ready=False)
        else:
            servers[name] = shared_gunicorn(*value, ready=False)
    return servers


@pytest.mark.parametrize("name", VALUES)
def test_setting_is_refused(refused, name):
    """A value other than the default ends the master; the one line names the setting."""
    if name not in refused:
        pytest.skip("this release of gunicorn has no such setting")
    refusal = rf"flask-aio-gunicorn cannot honour {name} = .+: .+\.$"
    if name == "http_protocols":  # gunicorn comes first where it cannot speak HTTP/2 itself.
        refusal += "|http_protocols includes h2 but the h2 package is not installed"
    assert_refused(refused[name], refusal)


def test_defaults_are_no_refusal(gunicorn):
    """A setting that is given its default is not refused, nor is a safe header_map."""
    known = Config().settings
    defaults = "\n".join(
        f"{name} = {known[name].default!r}" for name in sorted(_REFUSED) if name in known
    )
    server = gunicorn(config=defaults + "\nheader_map = 'refuse'\n")
    assert server.get().status == 200


def test_uvloop_worker_without_uvloop(gunicorn, tmp_path):
    """AioUVLoopWorker without uvloop ends the master, and says what to install."""
    server = gunicorn(
        worker="flask_aio_gunicorn.AioUVLoopWorker",
        files={"uvloop.py": "raise ImportError('not installed')"},
        env={"PYTHONPATH": str(tmp_path)},
        ready=False,
    )
    assert_refused(
        server,
        r"AioUVLoopWorker needs uvloop: pip install 'flask-aio-gunicorn\[speedups\]', or use"
        r" AioWorker\.$",
    )
