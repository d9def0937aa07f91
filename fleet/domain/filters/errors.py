"""What a filter is refused with: the column, what was expected there, what came, and a caret beneath it."""

from typing import Final

from fleet.domain.errors import InvalidInputError

CODE: Final = "filter_invalid"
_BEFORE: Final = 60  # characters of the filter that are shown before the column
_AFTER: Final = 30


class FilterError(InvalidInputError):
    """A filter that cannot be read. `column` counts characters from 1."""

    def __init__(self, text: str, column: int, *, expected: str, got: str) -> None:
        super().__init__(CODE, f"filter: column {column}: expected {expected}, got {got}\n{_pointed(text, column)}")
        self.column = column
        self.expected = expected
        self.got = got


def _pointed(text: str, column: int) -> str:
    """The part of the filter around the column on one line, and a caret beneath the column."""
    start = max(0, column - 1 - _BEFORE)
    shown = "".join(char if char.isprintable() else " " for char in text[start : column - 1 + _AFTER])
    return f"{shown}\n{' ' * (column - 1 - start)}^"
