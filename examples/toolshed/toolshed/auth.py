"""Joining, logging in and out."""

from __future__ import annotations

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_login import current_user, login_required, login_user, logout_user
from sqlalchemy.exc import IntegrityError
from werkzeug.security import check_password_hash, generate_password_hash

from .extensions import db
from .forms import LoginForm, RegisterForm
from .models import Member

bp = Blueprint("auth", __name__)

#: Checked for a name that nobody has, so that the answer takes as long as for one that exists.
_NOBODYS = generate_password_hash("nobody")


def next_page() -> str:
    """Return where ``?next=`` leads, if that is a page of this site."""
    target = request.args.get("next", "")
    # Browsers ignore some characters, and read "\" as "/": "/\t/host" is another site.
    is_local = target.startswith("/") and not target.startswith(("//", "/\\"))
    if is_local and target.isprintable():
        return target
    return url_for("catalogue.index")


@bp.route("/login", methods=["GET", "POST"])
def login() -> ResponseReturnValue:
    if current_user.is_authenticated:
        return redirect(next_page())
    form = LoginForm()
    if form.validate_on_submit():
        member = Member.named(form.name.data)
        if member is None:
            check_password_hash(_NOBODYS, form.password.data)
        elif member.check_password(form.password.data):
            login_user(member, remember=form.remember.data)
            flash(f"Welcome back, {member.name}.", "success")
            return redirect(next_page())
        flash("Name and password do not belong together.", "error")
        return render_template("login.html", form=form), 401
    return render_template("login.html", form=form)


@bp.route("/register", methods=["GET", "POST"])
def register() -> ResponseReturnValue:
    if current_user.is_authenticated:
        return redirect(url_for("catalogue.index"))
    form = RegisterForm()
    if form.validate_on_submit():
        name = form.name.data
        member = Member(name=name, name_key=name.lower(), street=form.street.data or "")
        member.password = form.password.data
        db.session.add(member)
        try:
            db.session.commit()
        except IntegrityError:  # Two had the same idea at the same time.
            db.session.rollback()
            form.name.errors = ["Somebody has that name already."]
        else:
            login_user(member)
            flash(f"Welcome to the shed, {member.name}.", "success")
            return redirect(next_page())
    return render_template("register.html", form=form), 422 if form.errors else 200


@bp.post("/logout")
@login_required
def logout() -> ResponseReturnValue:
    logout_user()
    flash("You are logged out.", "info")
    return redirect(url_for("catalogue.index"))
