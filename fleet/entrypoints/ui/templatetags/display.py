"""How values are written in templates: icons, badges, times, sizes, shares, digests. It decides nothing.

A template's path through an absent record ends in an empty string, so filters take that for "nothing" as they take None.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from typing import Any, Literal

from django import template
from django.template.context import Context
from django.templatetags.static import static
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from fleet.entrypoints.ui import wording
from fleet.entrypoints.ui.wording import age_in_words, badge_for, bytes_in_words, span_in_words

register = template.Library()
NO_VALUE = "\N{EN DASH}"


@register.simple_tag
def icon(name: str) -> SafeString:
    """A sign from icons.svg; decoration only, so hidden from screen readers."""
    return format_html(
        '<svg class="icon" aria-hidden="true" focusable="false"><use href="{}#{}"></use></svg>',
        static("ui/icons.svg"),
        name,
    )


@register.simple_tag
def badge(word: object) -> SafeString:
    """A state, verdict or outcome: sign, word and tone."""
    text = str(word.value if isinstance(word, Enum) else word or "")
    if not text:
        return SafeString("")
    shown = badge_for(text)
    return format_html('<span class="badge {}">{}{}</span>', shown.tone, icon(shown.icon), shown.word)


@register.simple_tag(takes_context=True)
def ago(context: Context, at: datetime | Literal[""] | None, empty: str = "never") -> SafeString:
    """How long ago something was; the exact time on hovering; kept true by ui.js."""
    if at is None or at == "":
        return format_html('<span class="faint">{}</span>', empty)
    return format_html(
        '<time datetime="{}" title="{}" data-relative>{}</time>',
        at.isoformat(timespec="seconds"),
        f"{at:%Y-%m-%d %H:%M:%S} UTC",
        age_in_words((context["now"] - at).total_seconds()),
    )


@register.simple_tag
def source_url(source: str) -> str:
    """The page of the rollout or experiment that a device's version came from."""
    return reverse("ui:experiment" if source.startswith("e-") else "ui:rollout", args=[source])


@register.filter
def at_time(at: datetime | Literal[""] | None) -> str:
    """`2026-01-31 12:00:05 UTC`."""
    return NO_VALUE if at is None or at == "" else f"{at:%Y-%m-%d %H:%M:%S} UTC"


@register.filter
def sized(count: float | Literal[""] | None) -> str:
    """`4.5 MB`."""
    return NO_VALUE if count is None or count == "" else bytes_in_words(count)


@register.filter
def span(seconds: float | Literal[""] | None) -> str:
    """`7 min`."""
    return NO_VALUE if seconds is None or seconds == "" else span_in_words(seconds)


@register.filter
def counted(number: float | Literal[""] | None) -> str:
    """`12,345`."""
    return NO_VALUE if number is None or number == "" else f"{number:,.0f}"


@register.filter
def percent(share: float | Literal[""] | None, digits: int = 0) -> str:
    """0.256 as `25.6 %`."""
    return NO_VALUE if share is None or share == "" else f"{share * 100:.{digits}f}\N{NO-BREAK SPACE}%"


@register.filter
def milliseconds(value: float | Literal[""] | None) -> str:
    """`0.42 ms`, `12.3 ms`, `140 ms`."""
    if value is None or value == "":
        return NO_VALUE
    digits = 2 if value < 1 else 1 if value < 100 else 0  # noqa: PLR2004 - three figures
    return f"{value:.{digits}f}\N{NO-BREAK SPACE}ms"


@register.simple_tag
def digest(sha256: str | None, length: int = 12) -> SafeString:
    """The head of a digest; the whole of it on hovering."""
    if not sha256:
        return format_html('<span class="faint">{}</span>', NO_VALUE)
    return format_html('<span class="digest" title="{}">{}</span>', sha256, sha256[:length])


@register.filter
def spoken(word: object) -> str:
    """`digest_mismatch` as `digest mismatch`."""
    return str(word.value if isinstance(word, Enum) else word or "").replace("_", " ")


@register.filter
def at(mapping: Mapping[str, object], key: str) -> object:
    """What a mapping holds under a key that only the template knows."""
    return mapping.get(key)


@register.filter
def gist(sentence: str) -> str:
    """What matters of a sentence about several gates."""
    return wording.gist(sentence)


@register.filter
def told(value: object) -> str:
    """A value of recorded detail."""
    return wording.told(value)


@register.filter
def shape(sizes: list[int | None] | None) -> str:
    """`[1, ?, 64]`; a question mark is any size."""
    return f"[{', '.join('?' if size is None else str(size) for size in sizes or ())}]"


@register.filter
def or_none(value: Any) -> Any:
    """The value, or a dash where there is none."""
    return NO_VALUE if value is None or value == "" else value
