"""Notes about loans, and who gets them."""

from __future__ import annotations

from flask import Blueprint, Flask, redirect, render_template, url_for
from flask.typing import ResponseReturnValue
from flask_login import current_user, login_required

from .extensions import db
from .models import Loan, Note, State
from .paging import paginate
from .signals import loan_changed

bp = Blueprint("inbox", __name__)


def init_app(app: Flask) -> None:
    loan_changed.connect(write_note, app)


def write_note(_: Flask, loan: Loan) -> None:
    """Tell the one who did not press the button."""
    to_owner = loan.state in (State.ASKED, State.WITHDRAWN)
    db.session.add(
        Note(member=loan.thing.owner if to_owner else loan.borrower, loan=loan, state=loan.state)
    )


@bp.get("/inbox")
@login_required
def index() -> ResponseReturnValue:
    notes = db.select(Note).filter_by(member_id=current_user.id).order_by(Note.id.desc())
    return render_template("inbox.html", notes=paginate(notes))


@bp.post("/inbox/read")
@login_required
def read() -> ResponseReturnValue:
    db.session.execute(db.update(Note).filter_by(member_id=current_user.id).values(is_read=True))
    db.session.commit()
    return redirect(url_for(".index"))
