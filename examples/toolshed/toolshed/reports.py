"""Figures for the stewards."""

from __future__ import annotations

from functools import wraps
from typing import Any

from flask import Blueprint, abort, render_template
from flask.typing import ResponseReturnValue
from flask_login import current_user, login_required

from .extensions import db
from .loans import csv_of
from .models import Loan, Member, State, Thing, now

bp = Blueprint("reports", __name__)


def steward_required(view: Any) -> Any:
    @wraps(view)
    @login_required
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if not current_user.is_steward:
            abort(403)
        return view(*args, **kwargs)

    return guarded


@bp.get("/")
@steward_required
def index() -> ResponseReturnValue:
    total = db.func.count().label("total")
    by_category = db.session.execute(
        db.select(Thing.category, total).group_by(Thing.category).order_by(total.desc())
    )
    by_state = db.session.execute(db.select(Loan.state, total).group_by(Loan.state))
    lenders = db.session.execute(
        db.select(Member, total)
        .join(Thing, Thing.owner_id == Member.id)
        .join(Loan, Loan.thing_id == Thing.id)
        .where(Loan.state.in_([State.LENT, State.RETURNED]))
        .group_by(Member.id)
        .order_by(total.desc(), Member.name)
        .limit(5)
    )
    overdue = db.session.scalars(
        db.select(Loan).where(Loan.state == State.LENT, Loan.due < now().date()).order_by(Loan.due)
    )
    return render_template(
        "reports.html",
        members=db.session.scalar(db.select(db.func.count(Member.id))),
        things=db.session.scalar(db.select(db.func.count(Thing.id))),
        by_category=by_category.all(),
        by_state=dict(by_state.all()),
        lenders=lenders.all(),
        overdue=overdue.all(),
    )


@bp.get("/loans.csv")
@steward_required
def export() -> ResponseReturnValue:
    return csv_of(db.select(Loan), "all-loans.csv")
