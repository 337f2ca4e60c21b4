"""A member's own profile, password and API tokens."""

from __future__ import annotations

from flask import Blueprint, abort, flash, redirect, render_template, url_for
from flask.typing import ResponseReturnValue
from flask_login import current_user, login_required, login_user

from .extensions import db
from .forms import PasswordForm, ProfileForm, TokenForm
from .models import Token, me

bp = Blueprint("account", __name__)


@bp.before_request
@login_required
def require_login() -> None:
    """Every page here is for members."""


@bp.route("/", methods=["GET", "POST"])
def profile() -> ResponseReturnValue:
    form = ProfileForm(obj=current_user)
    if form.validate_on_submit():
        form.populate_obj(current_user)
        db.session.commit()
        flash("Saved.", "success")
        return redirect(url_for(".profile"))
    return render_template("account.html", form=form)


@bp.route("/password", methods=["GET", "POST"])
def password() -> ResponseReturnValue:
    form = PasswordForm()
    if form.validate_on_submit():
        current_user.password = form.password.data
        db.session.commit()
        login_user(me())  # The other sessions are over.
        flash("Your password is changed, and you are logged out everywhere else.", "success")
        return redirect(url_for(".profile"))
    return render_template("password.html", form=form), 422 if form.errors else 200


@bp.route("/tokens", methods=["GET", "POST"])
def tokens() -> ResponseReturnValue:
    form = TokenForm()
    secret = None
    if form.validate_on_submit():
        token, secret = Token.make(me(), form.label.data)
        db.session.add(token)
        db.session.commit()
    return render_template("tokens.html", form=form, secret=secret)


@bp.post("/tokens/<int(max=999999999):number>/delete")
def delete_token(number: int) -> ResponseReturnValue:
    token: Token = db.get_or_404(Token, number)
    if token.member_id != current_user.id:
        abort(404)
    db.session.delete(token)
    db.session.commit()
    flash("The token no longer works.", "success")
    return redirect(url_for(".tokens"))
