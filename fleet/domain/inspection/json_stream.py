"""Reads a JSON object member by member, so that a header costs what is kept of it and not what could be written in it.

`json.loads` of 8 MiB of empty lists takes 220 MiB. Here a value that is no text has at most `MAX_VALUE_CHARS`, and objects of
many members are walked by whoever asks for them.
"""

import json
from codecs import getincrementaldecoder
from collections.abc import Iterable, Iterator
from typing import Final

from fleet.domain.inspection.files import MalformedFileError

MAX_VALUE_CHARS: Final = 1 << 16
MAX_TEXT_CHARS: Final = 4 << 20
_SPACE: Final = " \t\n\r"
_BEHIND_VALUES: Final = frozenset(",:]}" + _SPACE)


class JsonStream:
    """A JSON text that comes in chunks of bytes. Every method raises MalformedFileError where it is no JSON, or too long."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._decoder = getincrementaldecoder("utf-8")()
        self._parse = json.JSONDecoder().raw_decode
        self._held = ""
        self._at = 0
        self._is_ended = False

    def members(self) -> Iterator[str]:
        """The names in the object that comes next; before the next name is asked for, `value` or `members` must take this one's value."""
        self._take("{")
        if self.peek() == "}":
            self._at += 1
            return
        while True:
            name = self.value()
            if not isinstance(name, str):
                raise MalformedFileError(f"expected a name in a JSON object, got {name!r:.40}")
            self._take(":")
            yield name
            if self._take(",}") == "}":
                return

    def value(self) -> object:
        """What comes next, whole."""
        limit = MAX_TEXT_CHARS if self.peek() == '"' else MAX_VALUE_CHARS
        while True:
            try:
                value, end = self._parse(self._held, self._at)
            except (ValueError, RecursionError) as error:
                if self._is_ended or len(self._held) - self._at > limit:
                    raise MalformedFileError(
                        f"expected JSON with values of at most {limit} characters, got {type(error).__name__}"
                    ) from error
            else:
                # A number may go on, with digits or a point, in the next chunk.
                if self._held[end : end + 1] in _BEHIND_VALUES or self._is_ended or len(self._held) - self._at > limit:
                    self._at = end
                    return value
            self._read()

    def peek(self) -> str:
        """The first character that is no space, of what comes next; none at the end."""
        while True:
            while self._at < len(self._held):
                if self._held[self._at] not in _SPACE:
                    return self._held[self._at]
                self._at += 1
            if self._is_ended:
                return ""
            self._read()

    def _take(self, choices: str) -> str:
        found = self.peek()
        if not found or found not in choices:
            raise MalformedFileError(f"expected one of {choices} in a JSON header, got {found!r}")
        self._at += 1
        return found

    def _read(self) -> None:
        """One chunk more, or the end."""
        chunk = next(self._chunks, b"")
        self._is_ended = not chunk
        try:
            self._held = self._held[self._at :] + self._decoder.decode(chunk, final=self._is_ended)
        except ValueError as error:
            raise MalformedFileError(f"expected UTF-8 in a JSON header, got {error}") from error
        self._at = 0
