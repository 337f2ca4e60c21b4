"""Commands: ``flask --app toolshed init-db`` and others."""

from __future__ import annotations

import click
from flask.cli import with_appcontext

from .extensions import db
from .models import Loan, Member, State, now
from .seeding import plant


@click.command("init-db")
@with_appcontext
def init_db() -> None:
    """Make the tables that are not there yet."""
    db.create_all()
    click.echo("The database is ready.")


@click.command("seed")
@click.option("--password", default="borrow-it", show_default=True, help="Everybody's password.")
@with_appcontext
def seed(password: str) -> None:
    """Fill an empty shed with neighbours and their things."""
    if db.session.scalar(db.select(Member).limit(1)) is not None:
        raise click.ClickException("There are members already.")
    names = plant(password)
    click.echo(f"Log in as {names[0]}, or as {', '.join(names[1:])}. Password: {password}")


@click.command("make-steward")
@click.argument("name")
@with_appcontext
def make_steward(name: str) -> None:
    """Let a member see the reports."""
    member = Member.named(name)
    if member is None:
        raise click.ClickException(f"There is no member named {name!r}.")
    member.is_steward = True
    db.session.commit()
    click.echo(f"{member.name} is a steward.")


@click.command("overdue")
@with_appcontext
def overdue() -> None:
    """List what should have come back, for a daily job."""
    late = db.select(Loan).where(Loan.state == State.LENT, Loan.due < now().date())
    for loan in db.session.scalars(late.order_by(Loan.due)):
        click.echo(f"{loan.due}  {loan.thing.name}: {loan.borrower.name} → {loan.thing.owner.name}")
