"""Photos and manuals: taken in, kept and sent."""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path
from typing import IO

from flask import Blueprint, abort, current_app, flash, redirect, request, send_file, url_for
from flask.typing import ResponseReturnValue
from flask_login import current_user, login_required

from .extensions import db
from .forms import UploadForm, clean
from .models import File, Thing

bp = Blueprint("files", __name__)

#: How a file of each kind begins: what a browser says about it proves nothing.
_BEGINNINGS = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"%PDF-": "application/pdf",
}


def kind_of(stream: IO[bytes]) -> str | None:
    """Return the type of a file by its first bytes, or None for one that is not accepted."""
    head = stream.read(12)
    stream.seek(0)
    if head[:4] == b"RIFF" and head[8:] == b"WEBP":
        return "image/webp"
    return next((kind for start, kind in _BEGINNINGS.items() if head.startswith(start)), None)


def path_of(key: str) -> Path:
    return Path(current_app.config["UPLOADS"]) / key


def remove_files(keys: list[str]) -> None:
    for key in keys:
        path_of(key).unlink(missing_ok=True)


@bp.post("/things/<thing:number>/files")
@login_required
def upload(number: int) -> ResponseReturnValue:
    from .catalogue import find_own, render_form

    thing = find_own(number)
    form = UploadForm()
    if not form.validate_on_submit():
        return render_form(thing, upload=form), 422
    sent = form.file.data
    kind = kind_of(sent.stream)
    if kind is None:
        form.file.errors = ["That is neither JPEG, PNG, WebP nor PDF."]
        return render_form(thing, upload=form), 422
    add_file(thing, sent.stream, sent.filename or "", kind)
    flash("The file is there.", "success")
    return redirect(url_for("catalogue.edit", number=thing))


def add_file(thing: Thing, stream: IO[bytes], name: str, kind: str) -> File:
    """Keep a file; its own name is only shown, and never a path."""
    key = secrets.token_hex(16)
    path = path_of(key)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("xb") as target:
            while piece := stream.read(64 * 1024):
                target.write(piece)
        name = (clean(name.replace("\\", "/").rpartition("/")[2]) or "file")[:120]
        file = File(thing=thing, key=key, name=name, mimetype=kind, size=path.stat().st_size)
        db.session.add(file)
        db.session.commit()
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink()
        raise
    return file


@bp.get("/files/<int(max=999999999):number>")
def download(number: int) -> ResponseReturnValue:
    file: File = db.get_or_404(File, number)
    path = path_of(file.key)
    if not path.is_file():
        abort(404)
    response = send_file(
        path,
        file.mimetype,
        # A manual is saved, not opened as a page of this site.
        as_attachment=not file.is_image or "download" in request.args,
        download_name=file.name,
        max_age=3600,
        etag=file.key,
    )
    response.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    return response


@bp.post("/files/<int(max=999999999):number>/delete")
@login_required
def delete(number: int) -> ResponseReturnValue:
    file: File = db.get_or_404(File, number)
    thing = file.thing
    if thing.owner_id != current_user.id and not current_user.is_steward:
        abort(403)
    db.session.delete(file)
    db.session.commit()
    remove_files([file.key])
    flash("The file is gone.", "success")
    return redirect(url_for("catalogue.edit", number=thing))
