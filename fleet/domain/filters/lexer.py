"""A filter's text as tokens. Refuses what no filter can contain; knows nothing of what may follow what."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from fleet.domain.filters.errors import FilterError
from fleet.domain.filters.syntax import MAX_CHARS, MAX_TEXT_CHARS


class TokenKind(Enum):
    """What a token is."""

    NAME = auto()
    TEXT = auto()
    NUMBER = auto()
    SIGN = auto()
    END = auto()


@dataclass(frozen=True)
class Token:
    """One token. `value` is a name, a text without its quotes, digits or a sign; `column` counts from 1."""

    kind: TokenKind
    value: str
    column: int

    @property
    def shown(self) -> str:
        """The token as an error names it."""
        if self.kind is TokenKind.END:
            return "the end of the filter"
        return f"the text {self.value!r:.40}" if self.kind is TokenKind.TEXT else f"{self.value!r:.40}"


_SPACE: Final = " \t\r\n"
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]+", re.ASCII)
_SIGN: Final = re.compile(r"==|!=|<=|>=|[<>().,\[\]]")
_AFTER_NUMBER: Final = re.compile(r"[.0-9A-Za-z_]", re.ASCII)


def tokens(text: str) -> tuple[Token, ...]:
    """All tokens, the end last; raises `FilterError`."""
    if len(text) > MAX_CHARS:
        raise FilterError(
            text, MAX_CHARS + 1, expected=f"a filter of at most {MAX_CHARS} characters", got=f"{len(text)}"
        )
    return tuple(_tokens(text))


def _tokens(text: str) -> Iterator[Token]:
    at = 0
    while at < len(text):
        if text[at] in _SPACE:
            at += 1
        elif text[at] in "\"'":
            value, after = _quoted(text, at)
            yield Token(TokenKind.TEXT, value, at + 1)
            at = after
        elif found := _NAME.match(text, at):
            yield Token(TokenKind.NAME, found[0], at + 1)
            at = found.end()
        elif found := _NUMBER.match(text, at):
            if _AFTER_NUMBER.match(text, found.end()):
                shown = text[at : found.end() + 1]
                raise FilterError(text, at + 1, expected="a whole number", got=f"{shown!r:.40}...")
            yield Token(TokenKind.NUMBER, found[0], at + 1)
            at = found.end()
        elif found := _SIGN.match(text, at):
            yield Token(TokenKind.SIGN, found[0], at + 1)
            at = found.end()
        else:
            raise FilterError(text, at + 1, expected="a field, a value or an operator", got=_strange(text, at))
    yield Token(TokenKind.END, "", len(text) + 1)


def _strange(text: str, at: int) -> str:
    """A character that begins no token, with a hint where a habit of another language is likely."""
    hint = {"=": "; equality is ==", "&": "; write and", "|": "; write or", "!": "; write not"}.get(text[at], "")
    return f"{text[at]!a}{hint}"


def _quoted(text: str, start: int) -> tuple[str, int]:
    """The text that the quote at `start` opens, and where it is over. A backslash takes the next quote or backslash."""
    quote, value, at = text[start], [], start + 1
    while at < len(text) and text[at] != quote:
        char = text[at]
        if char == "\\":
            at += 1
            char = text[at : at + 1]
            if char not in ("\\", '"', "'"):
                raise FilterError(
                    text,
                    at,
                    expected="a quote or a backslash after a backslash",
                    got=ascii(char) if char else "the end",
                )
        elif not _is_storable(char):
            raise FilterError(text, at + 1, expected="text without control characters", got=ascii(char))
        value.append(char)
        at += 1
    if at >= len(text):
        raise FilterError(text, start + 1, expected=f"text that a second {quote} ends", got="none")
    if len(value) > MAX_TEXT_CHARS:
        raise FilterError(text, start + 1, expected=f"text of at most {MAX_TEXT_CHARS} characters", got=f"{len(value)}")
    return "".join(value), at + 1


def _is_storable(char: str) -> bool:
    """Neither a control character nor a lone surrogate, which no database takes."""
    return char >= " " and char != "\x7f" and not "\ud800" <= char <= "\udfff"
