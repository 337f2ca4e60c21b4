"""The things: listed, searched, shown, added, changed, commented."""

from __future__ import annotations

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_login import current_user, login_required
from sqlalchemy import or_
from sqlalchemy.orm import selectinload

from .extensions import db
from .files import remove_files
from .forms import AskForm, CommentForm, DeleteForm, ThingForm, UploadForm, clean
from .models import Category, Comment, Member, State, Thing, me
from .paging import paginate

bp = Blueprint("catalogue", __name__)


def find(number: int) -> Thing:
    """Return the thing of this number, or answer 404."""
    thing: Thing = db.get_or_404(Thing, number)
    return thing


def find_own(number: int) -> Thing:
    """Return the thing of this number if it is the member's, or a steward asks."""
    thing = find(number)
    if thing.owner_id != current_user.id and not current_user.is_steward:
        abort(403)
    return thing


@bp.get("/")
def index() -> ResponseReturnValue:
    query = clean(request.args.get("q", ""))[:80]
    category = request.args.get("category", "")
    free = request.args.get("free") == "yes"
    things = db.select(Thing).options(
        selectinload(Thing.owner), selectinload(Thing.files), selectinload(Thing.out)
    )
    if query:
        things = things.where(
            or_(
                Thing.name.icontains(query, autoescape=True),
                Thing.description.icontains(query, autoescape=True),
            )
        )
    if category:
        if category not in list(Category):
            abort(404)
        things = things.where(Thing.category == Category(category))
    if free:
        things = things.where(~Thing.out.has())
    return render_template(
        "index.html",
        things=paginate(things.order_by(Thing.added.desc(), Thing.id.desc())),
        query=query,
        category=category,
        free=free,
    )


@bp.get("/things/<thing:number>")
def show(number: int) -> ResponseReturnValue:
    thing = find(number)
    address = url_for(".show", number=thing)
    if request.path != address:  # It was renamed, or somebody typed the number.
        return redirect(address, 301)
    return render_thing(thing)


def render_thing(
    thing: Thing, ask: AskForm | None = None, comment: CommentForm | None = None
) -> str:
    return render_template(
        "thing.html",
        thing=thing,
        ask=ask or AskForm(formdata=None, due=AskForm.next_week()),
        comment=comment or CommentForm(formdata=None),
    )


@bp.route("/things/new", methods=["GET", "POST"])
@login_required
def add() -> ResponseReturnValue:
    form = ThingForm()
    if form.validate_on_submit():
        thing = Thing(owner=me())
        form.populate_obj(thing)
        db.session.add(thing)
        db.session.commit()
        flash("It is in the catalogue. A photo helps people to find it.", "success")
        return redirect(url_for(".edit", number=thing))
    return render_template("thing_form.html", form=form, thing=None)


@bp.route("/things/<thing:number>/edit", methods=["GET", "POST"])
@login_required
def edit(number: int) -> ResponseReturnValue:
    thing = find_own(number)
    form = ThingForm(obj=thing)
    if form.validate_on_submit():
        form.populate_obj(thing)
        db.session.commit()
        flash("Saved.", "success")
        return redirect(url_for(".show", number=thing))
    return render_form(thing, form)


def render_form(
    thing: Thing,
    form: ThingForm | None = None,
    upload: UploadForm | None = None,
    delete: DeleteForm | None = None,
) -> str:
    return render_template(
        "thing_form.html",
        thing=thing,
        form=form or ThingForm(formdata=None, obj=thing),
        upload=upload or UploadForm(formdata=None),
        delete=delete or DeleteForm(formdata=None),
    )


@bp.post("/things/<thing:number>/delete")
@login_required
def delete(number: int) -> ResponseReturnValue:
    thing = find_own(number)
    form = DeleteForm()
    if not form.validate_on_submit():
        return render_form(thing, delete=form), 422
    if any(loan.state is State.LENT for loan in thing.loans):
        flash("Somebody has it. Mark it as returned first.", "error")
        return redirect(url_for(".edit", number=thing))
    keys = [file.key for file in thing.files]
    name = thing.name
    db.session.delete(thing)
    db.session.commit()
    remove_files(keys)
    flash(f"“{name}” is no longer in the catalogue.", "success")
    return redirect(url_for("loans.shed"))


@bp.post("/things/<thing:number>/comments")
@login_required
def comment(number: int) -> ResponseReturnValue:
    thing = find(number)
    form = CommentForm()
    if not form.validate_on_submit():
        return render_thing(thing, comment=form), 422
    said = Comment(thing=thing, author=me(), text=form.text.data)
    db.session.add(said)
    db.session.commit()
    return redirect(url_for(".show", number=thing, _anchor=f"comment-{said.id}"))


@bp.post("/comments/<int(max=999999999):number>/delete")
@login_required
def delete_comment(number: int) -> ResponseReturnValue:
    said: Comment = db.get_or_404(Comment, number)
    if said.author_id != current_user.id and not current_user.is_steward:
        abort(403)
    thing = said.thing
    db.session.delete(said)
    db.session.commit()
    flash("The comment is gone.", "success")
    return redirect(url_for(".show", number=thing))


@bp.post("/things/<thing:number>/favourite")
@login_required
def favourite(number: int) -> ResponseReturnValue:
    thing = find(number)
    if thing in current_user.favourites:
        current_user.favourites.remove(thing)
    else:
        current_user.favourites.append(thing)
    db.session.commit()
    return redirect(url_for(".show", number=thing))


@bp.get("/members/<name>")
def member(name: str) -> ResponseReturnValue:
    found = Member.named(name)
    if found is None:
        abort(404)
    return render_template("member.html", member=found)
