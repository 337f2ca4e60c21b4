"""gunicorn's settings: which of them this worker cannot honour, and says so."""

from __future__ import annotations

from typing import Any, Final

from gunicorn.config import Config

_ASGI: Final = "it is for gunicorn's own ASGI worker"
_HTTP2: Final = "HTTP/2 is not spoken here: let a proxy in front do it"
_PARSER: Final = "requests are parsed by aiohttp, which has no such mode"

#: Settings that mean nothing here, each with the reason; their defaults are no claim.
_REFUSED: Final = {
    "http2_cleartext": _HTTP2,
    "http2_max_concurrent_streams": _HTTP2,
    "http2_initial_window_size": _HTTP2,
    "http2_max_frame_size": _HTTP2,
    "http2_max_header_list_size": _HTTP2,
    "http_protocols": _HTTP2,
    "http_parser": _PARSER,
    "permit_obsolete_folding": _PARSER,
    "strip_header_spaces": _PARSER,
    "permit_unconventional_http_method": _PARSER,
    "permit_unconventional_http_version": _PARSER,
    "casefold_http_method": _PARSER,
    "protocol": "only HTTP is spoken here: let nginx use proxy_pass, not uwsgi_pass",
    "suppress_ragged_eofs": "asyncio's TLS always treats a cut connection as its end",
    "asgi_loop": f"{_ASGI}; choose the loop with the worker, AioWorker or AioUVLoopWorker",
    "asgi_lifespan": f"{_ASGI}; start and clean-up hooks are aio.on_startup and aio.cleanup_ctx",
    "asgi_disconnect_grace_period": f"{_ASGI}; see AIO_CANCEL_ON_DISCONNECT in app.config",
    "websocket_max_message_size": f"{_ASGI}; see AIO_WS_MAX_MESSAGE_SIZE in app.config",
    "root_path": f"{_ASGI}; set the environment variable SCRIPT_NAME",
}


def check_settings(cfg: Config) -> None:
    """Refuse settings that cannot be honoured.

    :raises RuntimeError: with one line that names the setting, its value and the reason; gunicorn
        prints it and ends.
    """
    for name, reason in _REFUSED.items():
        setting: Any = cfg.settings.get(name)  # Older releases lack some.
        if setting is None:
            continue
        default = type(setting)()
        if setting.get() != default.get():
            raise RuntimeError(
                f"flask-aio-gunicorn cannot honour {name} = {setting.get()!r}: {reason}."
            )
    if not cfg.worker_connections:
        raise RuntimeError(
            "flask-aio-gunicorn cannot honour worker_connections = 0: every client would wait for"
            " ever. It is the number of connections that each worker holds."
        )
    if getattr(cfg, "header_map", None) == "dangerous":
        raise RuntimeError(
            "flask-aio-gunicorn cannot honour header_map = 'dangerous': headers with underscores"
            " could pass for others that a proxy has checked. List those you need in"
            " forwarder_headers."
        )
