"""The forms, and what each field accepts."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from flask import current_app
from flask_login import current_user
from flask_wtf import FlaskForm
from flask_wtf.file import FileField, FileRequired
from wtforms import (
    BooleanField,
    DateField,
    Field,
    PasswordField,
    SelectChoice,
    SelectField,
    StringField,
    TextAreaField,
)
from wtforms.validators import (
    DataRequired,
    EqualTo,
    InputRequired,
    Length,
    Optional,
    Regexp,
    ValidationError,
)

from .models import Category, Member, now


def clean(text: str) -> str:
    """Take away the characters that nobody can see, and the spaces around."""
    text = text.replace("\r\n", "\n")
    return "".join(one for one in text if one.isprintable() or one in "\n\t").strip()


class Form(FlaskForm):
    class Meta(FlaskForm.Meta):
        def bind_field(self, form: Any, unbound: Any, options: Any) -> Any:
            if unbound.field_class in (StringField, TextAreaField):
                options["filters"] = [lambda text: text and clean(text)]
            return super().bind_field(form, unbound, options)


class LoginForm(Form):
    name = StringField("Name", [DataRequired(), Length(max=40)])
    password = PasswordField("Password", [InputRequired(), Length(max=200)])
    remember = BooleanField("Keep me logged in on this computer")


class RegisterForm(Form):
    name = StringField(
        "Name",
        [
            DataRequired(),
            Length(2, 40),
            Regexp(r"\w[\w .'-]*\Z", message="Use letters, digits, spaces and . ' - only."),
        ],
    )
    street = StringField("Street", [Optional(), Length(max=80)])
    password = PasswordField("Password", [InputRequired(), Length(8, 200)])
    again = PasswordField(
        "The same once more", [EqualTo("password", "The two passwords are not the same.")]
    )

    def validate_name(self, field: Field) -> None:
        if Member.named(field.data) is not None:
            raise ValidationError("Somebody has that name already.")


class ProfileForm(Form):
    street = StringField("Street", [Optional(), Length(max=80)])
    about = TextAreaField("About you", [Optional(), Length(max=1000)])


class PasswordForm(Form):
    old = PasswordField("Your password now", [InputRequired(), Length(max=200)])
    password = PasswordField("New password", [InputRequired(), Length(8, 200)])
    again = PasswordField(
        "The same once more", [EqualTo("password", "The two passwords are not the same.")]
    )

    def validate_old(self, field: Field) -> None:
        if not current_user.check_password(field.data):
            raise ValidationError("That is not your password.")


class TokenForm(Form):
    label = StringField("What is it for?", [DataRequired(), Length(max=40)])


class ThingForm(Form):
    name = StringField("What is it?", [DataRequired(), Length(2, 80)])
    category = SelectField("Kind", choices=[SelectChoice(one.value, one.label) for one in Category])
    description = TextAreaField(
        "What should a borrower know?",
        [Optional(), Length(max=4000)],
        description="Its condition, what belongs to it, what not to do with it.",
    )


class UploadForm(Form):
    file = FileField(
        "A photo or a manual",
        [FileRequired("Choose a file first.")],
        description="JPEG, PNG, WebP or PDF.",
    )


class AskForm(Form):
    due = DateField("Until", [InputRequired()])
    message = TextAreaField("A word to the owner", [Optional(), Length(max=500)])

    def validate_due(self, field: Field) -> None:
        if field.data is None:  # It was no date, and has been told so.
            return
        today = now().date()
        last = today + timedelta(days=current_app.config["LONGEST_LOAN"])
        if not today < field.data <= last:
            raise ValidationError(f"Choose a day from tomorrow to {last:%d %B %Y}.")

    @staticmethod
    def next_week() -> date:
        return now().date() + timedelta(days=7)


class CommentForm(Form):
    text = TextAreaField("Say something", [DataRequired(), Length(max=2000)])


class DeleteForm(Form):
    sure = BooleanField("Yes, take it out of the catalogue", [DataRequired("Tick this first.")])
