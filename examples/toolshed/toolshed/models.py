"""Members, their things, and who has borrowed what."""

from __future__ import annotations

import enum
import hashlib
import secrets
from datetime import UTC, date, datetime

from flask_login import UserMixin, current_user
from sqlalchemy import Column, Enum, ForeignKey, Index, Integer, String, Table, Text, text
from sqlalchemy.orm import Mapped, mapped_column, relationship
from werkzeug.security import check_password_hash, generate_password_hash

from .extensions import db, login_manager


def now() -> datetime:
    """Return the time as the database keeps it: UTC, without saying so."""
    return datetime.now(UTC).replace(tzinfo=None)


class Category(enum.StrEnum):
    WORKSHOP = "workshop"
    GARDEN = "garden"
    KITCHEN = "kitchen"
    OUTDOORS = "outdoors"
    PARTY = "party"
    READING = "reading"

    @property
    def label(self) -> str:
        return self.value.capitalize()


class State(enum.StrEnum):
    """Where a loan stands. ``asked`` becomes one of the next three, ``lent`` becomes the last."""

    ASKED = "asked"
    DECLINED = "declined"
    WITHDRAWN = "withdrawn"
    LENT = "lent"
    RETURNED = "returned"


def _stored(kind: type[enum.StrEnum]) -> Enum:
    return Enum(
        kind, native_enum=False, length=20, values_callable=lambda all_: [one.value for one in all_]
    )


favourites = Table(
    "favourites",
    db.metadata,
    Column("member_id", ForeignKey("members.id", ondelete="CASCADE"), primary_key=True),
    Column("thing_id", ForeignKey("things.id", ondelete="CASCADE"), primary_key=True),
)


class Member(UserMixin, db.Model):  # type: ignore[name-defined, misc]
    __tablename__ = "members"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(40))
    #: The name in small letters: there is one "Ada" or "ada", not both.
    name_key: Mapped[str] = mapped_column(String(40), unique=True)
    street: Mapped[str] = mapped_column(String(80), default="")
    about: Mapped[str] = mapped_column(Text, default="")
    password_hash: Mapped[str] = mapped_column(String(255))
    #: Changes with the password, which ends the sessions that were begun with the old one.
    session_key: Mapped[str] = mapped_column(String(40))
    #: Stewards see the reports, and may remove whatever does not belong here.
    is_steward: Mapped[bool] = mapped_column(default=False)
    joined: Mapped[datetime] = mapped_column(default=now)
    seen: Mapped[datetime | None]

    things: Mapped[list[Thing]] = relationship(
        back_populates="owner", order_by="Thing.name", cascade="all, delete-orphan"
    )
    loans: Mapped[list[Loan]] = relationship(
        back_populates="borrower", order_by="Loan.asked.desc()", cascade="all, delete-orphan"
    )
    favourites: Mapped[list[Thing]] = relationship(secondary=favourites, order_by="Thing.name")
    tokens: Mapped[list[Token]] = relationship(
        back_populates="member", order_by="Token.id", cascade="all, delete-orphan"
    )

    @property
    def password(self) -> str:
        raise AttributeError("only the password's hash is kept")

    @password.setter
    def password(self, password: str) -> None:
        self.password_hash = generate_password_hash(password)
        self.session_key = secrets.token_urlsafe(20)

    def check_password(self, password: str) -> bool:
        return check_password_hash(self.password_hash, password)

    def get_id(self) -> str:
        return f"{self.id}.{self.session_key}"

    @classmethod
    def named(cls, name: str) -> Member | None:
        return db.session.scalar(db.select(cls).filter_by(name_key=name.lower()))


def me() -> Member:
    """Return the member who is logged in: the row itself, which can be stored, not its proxy."""
    member: Member = current_user._get_current_object()
    return member


@login_manager.user_loader
def load_member(session_id: str) -> Member | None:
    number, _, key = session_id.partition(".")
    if not number.isdecimal():
        return None
    member = db.session.get(Member, int(number))
    if member is None or not secrets.compare_digest(member.session_key.encode(), key.encode()):
        return None
    return member


class Thing(db.Model):  # type: ignore[name-defined, misc]
    __tablename__ = "things"

    id: Mapped[int] = mapped_column(primary_key=True)
    owner_id: Mapped[int] = mapped_column(ForeignKey("members.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(80))
    description: Mapped[str] = mapped_column(Text, default="")
    category: Mapped[Category] = mapped_column(_stored(Category), index=True)
    added: Mapped[datetime] = mapped_column(default=now, index=True)

    owner: Mapped[Member] = relationship(back_populates="things")
    loans: Mapped[list[Loan]] = relationship(
        back_populates="thing", order_by="Loan.asked.desc()", cascade="all, delete-orphan"
    )
    comments: Mapped[list[Comment]] = relationship(
        back_populates="thing", order_by="Comment.id", cascade="all, delete-orphan"
    )
    files: Mapped[list[File]] = relationship(
        back_populates="thing", order_by="File.id", cascade="all, delete-orphan"
    )
    #: The loan that it is out on, if it is.
    out: Mapped[Loan | None] = relationship(
        primaryjoin="and_(Loan.thing_id == Thing.id, Loan.state == 'lent')", viewonly=True
    )

    @property
    def photo(self) -> File | None:
        return next((file for file in self.files if file.is_image), None)

    def waiting(self) -> list[Loan]:
        return [loan for loan in reversed(self.loans) if loan.state is State.ASKED]

    def asked_by(self, member: Member) -> Loan | None:
        return next((loan for loan in self.waiting() if loan.borrower_id == member.id), None)


class Loan(db.Model):  # type: ignore[name-defined, misc]
    __tablename__ = "loans"
    __table_args__ = (
        # The database, not the application, sees to it that nothing is lent to two at once.
        Index(
            "uq_loans_out",
            "thing_id",
            unique=True,
            sqlite_where=text("state = 'lent'"),
            postgresql_where=text("state = 'lent'"),
        ),
        Index(
            "uq_loans_asked",
            "thing_id",
            "borrower_id",
            unique=True,
            sqlite_where=text("state = 'asked'"),
            postgresql_where=text("state = 'asked'"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    thing_id: Mapped[int] = mapped_column(ForeignKey("things.id", ondelete="CASCADE"))
    borrower_id: Mapped[int] = mapped_column(
        ForeignKey("members.id", ondelete="CASCADE"), index=True
    )
    state: Mapped[State] = mapped_column(_stored(State), default=State.ASKED, index=True)
    message: Mapped[str] = mapped_column(Text, default="")
    asked: Mapped[datetime] = mapped_column(default=now)
    due: Mapped[date]
    lent: Mapped[datetime | None]
    returned: Mapped[datetime | None]

    thing: Mapped[Thing] = relationship(back_populates="loans")
    borrower: Mapped[Member] = relationship(back_populates="loans")
    notes: Mapped[list[Note]] = relationship(back_populates="loan", cascade="all, delete-orphan")

    @property
    def is_overdue(self) -> bool:
        return self.state is State.LENT and self.due < now().date()


class Comment(db.Model):  # type: ignore[name-defined, misc]
    __tablename__ = "comments"

    id: Mapped[int] = mapped_column(primary_key=True)
    thing_id: Mapped[int] = mapped_column(ForeignKey("things.id", ondelete="CASCADE"), index=True)
    author_id: Mapped[int] = mapped_column(ForeignKey("members.id", ondelete="CASCADE"))
    text: Mapped[str] = mapped_column(Text)
    written: Mapped[datetime] = mapped_column(default=now)

    thing: Mapped[Thing] = relationship(back_populates="comments")
    author: Mapped[Member] = relationship()


class File(db.Model):  # type: ignore[name-defined, misc]
    """A photo or a manual; the bytes are in the folder of uploads, under :attr:`key`."""

    __tablename__ = "files"

    id: Mapped[int] = mapped_column(primary_key=True)
    thing_id: Mapped[int] = mapped_column(ForeignKey("things.id", ondelete="CASCADE"), index=True)
    key: Mapped[str] = mapped_column(String(40), unique=True)
    name: Mapped[str] = mapped_column(String(120))
    mimetype: Mapped[str] = mapped_column(String(40))
    size: Mapped[int] = mapped_column(Integer)

    thing: Mapped[Thing] = relationship(back_populates="files")

    @property
    def is_image(self) -> bool:
        return self.mimetype.startswith("image/")


class Note(db.Model):  # type: ignore[name-defined, misc]
    """What a member is told about a loan, in the inbox."""

    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    member_id: Mapped[int] = mapped_column(ForeignKey("members.id", ondelete="CASCADE"), index=True)
    loan_id: Mapped[int] = mapped_column(ForeignKey("loans.id", ondelete="CASCADE"), index=True)
    #: The state that the loan came to.
    state: Mapped[State] = mapped_column(_stored(State))
    written: Mapped[datetime] = mapped_column(default=now)
    is_read: Mapped[bool] = mapped_column(default=False)

    member: Mapped[Member] = relationship()
    loan: Mapped[Loan] = relationship(back_populates="notes")


class Token(db.Model):  # type: ignore[name-defined, misc]
    """A key for the API; only its hash is kept."""

    __tablename__ = "tokens"

    id: Mapped[int] = mapped_column(primary_key=True)
    member_id: Mapped[int] = mapped_column(ForeignKey("members.id", ondelete="CASCADE"), index=True)
    label: Mapped[str] = mapped_column(String(40))
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    made: Mapped[datetime] = mapped_column(default=now)
    used: Mapped[datetime | None]

    member: Mapped[Member] = relationship(back_populates="tokens")

    @classmethod
    def make(cls, member: Member, label: str) -> tuple[Token, str]:
        """Return a new token, and the secret that stands for it and is not kept."""
        secret = secrets.token_urlsafe(32)
        return cls(member=member, label=label, digest=cls.digest_of(secret)), secret

    @staticmethod
    def digest_of(secret: str) -> str:
        return hashlib.sha256(secret.encode()).hexdigest()

    @classmethod
    def of(cls, secret: str) -> Token | None:
        return db.session.scalar(db.select(cls).filter_by(digest=cls.digest_of(secret)))
