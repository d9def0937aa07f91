"""What stands behind the question mark of an address: parsed here, forgiving, since people edit addresses by hand."""

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlencode

from django.http import HttpRequest

MAX_CHARS: Final = 64


def text(request: HttpRequest, name: str, *, among: tuple[str, ...] | None = None, max_chars: int = MAX_CHARS) -> str:
    """A parameter without its outer blanks; empty where it is missing or, if `among` is given, not one of these.

    NUL, which PostgreSQL takes in no text, is taken out.
    """
    value = request.GET.get(name, "").replace("\0", "").strip()[:max_chars]
    return value if among is None or value in among else ""


def positive(request: HttpRequest, name: str) -> int | None:
    """A parameter that is a whole number above zero; None otherwise."""
    value = request.GET.get(name, "")
    return int(value) if value.isascii() and value.isdigit() and 0 < len(value) <= 18 and int(value) > 0 else None  # noqa: PLR2004


def query(parameters: Mapping[str, object]) -> str:
    """The address's tail for parameters that are not empty."""
    kept = {name: value for name, value in parameters.items() if value not in (None, "")}
    return f"?{urlencode(kept)}" if kept else "?"
