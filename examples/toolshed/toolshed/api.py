"""The catalogue and one's own loans as JSON, for programs with a token."""

from __future__ import annotations

from functools import wraps
from typing import Any, TypeVar

from flask import Blueprint, abort, current_app, g, request, url_for
from flask.typing import ResponseReturnValue
from flask_wtf import FlaskForm
from werkzeug.datastructures import MultiDict, WWWAuthenticate
from werkzeug.exceptions import Unauthorized

from .catalogue import find
from .extensions import db
from .forms import AskForm, ThingForm
from .loans import Refused, ask_for
from .models import Loan, Member, Thing, Token, now
from .paging import paginate

bp = Blueprint("api", __name__)

F = TypeVar("F", bound=FlaskForm)


def token_required(view: Any) -> Any:
    """Let in only who sends ``Authorization: Bearer`` and a token."""

    @wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        sent = request.authorization
        token = None
        if sent is not None and sent.type == "bearer" and sent.token:
            token = Token.of(sent.token)
        if token is None:
            raise Unauthorized(
                "Send a token of yours as Authorization: Bearer.",
                www_authenticate=WWWAuthenticate("bearer", {"realm": "toolshed"}),
            )
        g.token_owner = token.member
        token.used = now()
        db.session.commit()
        return current_app.ensure_sync(view)(*args, **kwargs)

    return guarded


def me() -> Member:
    """Return whose token the request came with."""
    owner: Member = g.token_owner
    return owner


def read(form: type[F]) -> F:
    """Return the request's JSON object as a valid form, or answer 422 with what is wrong."""
    sent = request.get_json()
    if not isinstance(sent, dict):
        abort(422, "Send a JSON object.")
    texts = MultiDict((key, value) for key, value in sent.items() if isinstance(value, str))
    filled = form(formdata=texts, meta={"csrf": False})
    if not filled.validate():
        wrong = "; ".join(f"{name}: {' '.join(texts)}" for name, texts in filled.errors.items())
        abort(422, wrong)
    return filled


def thing_json(thing: Thing) -> dict[str, Any]:
    return {
        "id": thing.id,
        "name": thing.name,
        "category": thing.category,
        "description": thing.description,
        "owner": thing.owner.name,
        "free": thing.out is None,
        "files": [url_for("files.download", number=file.id) for file in thing.files],
        "url": url_for("catalogue.show", number=thing),
    }


def loan_json(loan: Loan) -> dict[str, Any]:
    return {
        "id": loan.id,
        "thing": loan.thing.name,
        "owner": loan.thing.owner.name,
        "borrower": loan.borrower.name,
        "state": loan.state,
        "due": loan.due.isoformat(),
    }


@bp.get("/me")
@token_required
def whoami() -> ResponseReturnValue:
    return {"name": me().name, "things": len(me().things), "loans": len(me().loans)}


@bp.get("/things")
@token_required
def things() -> ResponseReturnValue:
    page = paginate(db.select(Thing).order_by(Thing.id))
    following = page.has_next and url_for(".things", page=page.next_num)
    return {
        "things": [thing_json(thing) for thing in page],
        "total": page.total,
        "next": following or None,
    }


@bp.get("/things/<int(max=999999999):number>")
@token_required
def thing(number: int) -> ResponseReturnValue:
    return thing_json(find(number))


@bp.post("/things")
@token_required
def add() -> ResponseReturnValue:
    form = read(ThingForm)
    new = Thing(owner=me())
    form.populate_obj(new)
    db.session.add(new)
    db.session.commit()
    address = url_for(".thing", number=new.id)
    return thing_json(new), 201, {"Location": address}


@bp.post("/things/<int(max=999999999):number>/ask")
@token_required
def ask(number: int) -> ResponseReturnValue:
    form = read(AskForm)
    try:
        loan = ask_for(find(number), me(), form)
    except Refused as refused:
        abort(409, str(refused))
    return loan_json(loan), 201


@bp.get("/loans")
@token_required
def loans() -> ResponseReturnValue:
    return [loan_json(loan) for loan in me().loans]
