"""Toolshed: neighbours lend each other what they need twice a year."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from . import (
    account,
    api,
    auth,
    catalogue,
    commands,
    context,
    errors,
    files,
    hooks,
    inbox,
    loans,
    prices,
    reports,
)
from .config import CONFIGS
from .converters import ThingConverter
from .extensions import csrf, db, login_manager, tune_sqlite


def create_app(config: str | None = None) -> Flask:
    """Make the application.

    :param config: The name of a class in :mod:`toolshed.config`; without one, that in the
        environment variable ``TOOLSHED_CONFIG``, or ``local``.

    Other variables ``TOOLSHED_X`` set ``app.config["X"]``; ``TOOLSHED_DATA`` is the absolute path
    of the folder for the database, the uploads and the generated secret key.
    """
    app = Flask(__name__, instance_path=os.environ.get("TOOLSHED_DATA"))
    app.config.from_object(CONFIGS[config or os.environ.get("TOOLSHED_CONFIG", "local")])
    app.config.from_prefixed_env("TOOLSHED")

    data = Path(app.instance_path)
    data.mkdir(parents=True, exist_ok=True)
    app.config["SECRET_KEY"] = app.config["SECRET_KEY"] or _stored_key(data / "secret_key")
    app.config["UPLOADS"] = app.config["UPLOADS"] or str(data / "uploads")
    if proxies := app.config["PROXIES"]:
        app.wsgi_app = ProxyFix(  # type: ignore[method-assign]
            app.wsgi_app, x_for=proxies, x_proto=proxies, x_host=proxies
        )

    db.init_app(app)
    login_manager.init_app(app)
    csrf.init_app(app)
    tune_sqlite(app)

    app.url_map.converters["thing"] = ThingConverter
    context.init_app(app)
    hooks.init_app(app)
    errors.init_app(app)
    inbox.init_app(app)
    app.cli.add_command(commands.init_db)
    app.cli.add_command(commands.seed)
    app.cli.add_command(commands.make_steward)
    app.cli.add_command(commands.overdue)

    app.register_blueprint(catalogue.bp)
    app.register_blueprint(files.bp)
    app.register_blueprint(loans.bp)
    app.register_blueprint(inbox.bp)
    app.register_blueprint(auth.bp, url_prefix="/auth")
    app.register_blueprint(account.bp, url_prefix="/account")
    app.register_blueprint(reports.bp, url_prefix="/reports")
    app.register_blueprint(api.bp, url_prefix="/api/v1")
    csrf.exempt(api.bp)  # It has tokens instead of cookies.
    if app.config["PRICE_SHOPS"]:
        app.register_blueprint(prices.bp)
    return app


def _stored_key(path: Path) -> str:
    """Return the key in a file, which the first process to look for it makes."""
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32))
    except FileExistsError:
        pass
    return path.read_text()
