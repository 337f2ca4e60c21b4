"""Asking, lending, giving back, and one's own shed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any

from flask import (
    Blueprint,
    Response,
    abort,
    current_app,
    flash,
    redirect,
    render_template,
    stream_with_context,
    url_for,
)
from flask.typing import ResponseReturnValue
from flask_login import current_user, login_required
from sqlalchemy import Select, or_
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import joinedload

from .catalogue import find, render_thing
from .extensions import db
from .forms import AskForm
from .models import Loan, Member, State, Thing, me, now
from .signals import loan_changed

bp = Blueprint("loans", __name__)

#: What each button does: from which state, to which, and whether the owner presses it.
STEPS = {
    "lend": (State.ASKED, State.LENT, True),
    "decline": (State.ASKED, State.DECLINED, True),
    "withdraw": (State.ASKED, State.WITHDRAWN, False),
    "return": (State.LENT, State.RETURNED, True),
}


class Refused(Exception):
    """Why a loan cannot be what somebody wants it to be."""


def ask_for(thing: Thing, member: Member, form: AskForm) -> Loan:
    """Ask for a thing on a member's behalf.

    :raises Refused: It is the member's own, or was asked for already.
    """
    if thing.owner_id == member.id:
        raise Refused("It is your own.")
    loan = Loan(thing=thing, borrower=member, due=form.due.data, message=form.message.data or "")
    db.session.add(loan)
    try:
        db.session.flush()
        _announce(loan)
    except IntegrityError:
        db.session.rollback()
        raise Refused("You have asked for it already.") from None
    return loan


def take_step(loan: Loan, step: str) -> None:
    """Bring a loan to its next state.

    :raises Refused: It is not in the state for that step, or the thing is out.
    """
    before, after, _ = STEPS[step]
    statement = db.update(Loan).where(Loan.id == loan.id, Loan.state == before)
    try:
        # In one statement: of two clicks at the same time, one finds the loan as it was.
        changed = db.session.execute(statement.values(state=State(after)))
        if changed.rowcount != 1:
            db.session.rollback()
            raise Refused("Somebody was faster: that has been settled already.")
        if after is State.LENT:
            loan.lent = now()
        elif after is State.RETURNED:
            loan.returned = now()
        _announce(loan)
    except IntegrityError:
        db.session.rollback()
        raise Refused("It is lent to somebody else.") from None


def _announce(loan: Loan) -> None:
    loan_changed.send(current_app._get_current_object(), loan=loan)  # type: ignore[attr-defined]
    db.session.commit()


@bp.post("/things/<thing:number>/ask")
@login_required
def ask(number: int) -> ResponseReturnValue:
    thing = find(number)
    form = AskForm()
    if not form.validate_on_submit():
        return render_thing(thing, ask=form), 422
    try:
        ask_for(thing, me(), form)
    except Refused as refused:
        flash(str(refused), "error")
    else:
        flash(
            f"{thing.owner.name} has been asked. You will find the answer in your inbox.", "success"
        )
    return redirect(url_for("catalogue.show", number=thing))


@bp.post("/loans/<int(max=999999999):number>/<any(lend, decline, withdraw, return):step>")
@login_required
def move(number: int, step: str) -> ResponseReturnValue:
    loan: Loan = db.get_or_404(Loan, number)
    by_owner = STEPS[step][2]
    if current_user.id != (loan.thing.owner_id if by_owner else loan.borrower_id):
        abort(403)
    try:
        take_step(loan, step)
    except Refused as refused:
        flash(str(refused), "error")
    else:
        flash("Done.", "success")
    return redirect(url_for(".shed"))


@bp.get("/shed")
@login_required
def shed() -> ResponseReturnValue:
    return render_template("shed.html")


@bp.get("/shed/loans.csv")
@login_required
def export() -> ResponseReturnValue:
    """Send the member's own loans, in both directions, as they come from the database."""
    mine = or_(Loan.borrower_id == current_user.id, Loan.thing.has(owner_id=current_user.id))
    return csv_of(db.select(Loan).where(mine), "my-loans.csv")


def csv_of(loans: Select[Any], name: str) -> Response:
    """Stream loans as a table."""
    loans = loans.options(joinedload(Loan.thing).joinedload(Thing.owner), joinedload(Loan.borrower))

    def rows() -> Iterator[Iterable[object]]:
        yield "thing", "owner", "borrower", "state", "asked", "due", "returned"
        for loan in db.session.scalars(loans.order_by(Loan.id).execution_options(yield_per=100)):
            yield (
                *(loan.thing.name, loan.thing.owner.name, loan.borrower.name, loan.state.value),
                *(loan.asked.date(), loan.due, loan.returned and loan.returned.date()),
            )

    def lines() -> Iterator[str]:
        buffer = io.StringIO()
        writer = csv.writer(buffer)
        for row in rows():
            writer.writerow(map(harmless, row))
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()

    response = Response(stream_with_context(lines()), mimetype="text/csv")
    response.headers.set("Content-Disposition", "attachment", filename=name)
    return response


def harmless(value: object) -> str:
    """Write a cell so that no spreadsheet takes it for a formula."""
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
