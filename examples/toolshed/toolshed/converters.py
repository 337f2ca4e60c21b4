"""How things are named in addresses."""

from __future__ import annotations

import re
import unicodedata

from werkzeug.routing import BaseConverter

from .models import Thing


def slugify(text: str) -> str:
    """Return the words of a text in small letters, joined by hyphens; they may be none."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return "-".join(re.findall(r"[a-z0-9]+", plain.lower()))[:60].strip("-")


class ThingConverter(BaseConverter):
    """``42-hammer-drill``: the view gets the number 42, and addresses are made from a thing."""

    # At most nine digits: a longer number is no key of any database.
    regex = r"[1-9][0-9]{0,8}(?:-[a-z0-9-]*)?"

    def to_python(self, value: str) -> int:
        return int(value.partition("-")[0])

    def to_url(self, value: Thing | int) -> str:
        if isinstance(value, int):
            return str(value)
        return f"{value.id}-{slugify(value.name)}".rstrip("-")
