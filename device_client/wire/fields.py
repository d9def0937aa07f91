"""Typed reading of JSON objects that came from outside: every refusal names the field, what was expected, what came.

`decode_object` bounds size and depth before anything is built on the value; `Fields` reads one object. Unknown keys
are ignored, so that a newer sender may add optional ones within the same version.
"""

import json
from collections.abc import Callable, Mapping
from typing import TypeVar

from device_client.wire import limits
from device_client.wire.errors import MalformedMessageError, OversizedError, UnknownVersionError, WireError

Parsed = TypeVar("Parsed")


def _refuse_constant(name: str) -> float:
    raise MalformedMessageError(f"expected finite numbers, got {name}")


def decode_object(payload: bytes, *, max_bytes: int = limits.MAX_MESSAGE_BYTES) -> "Fields":
    """Decode one JSON object of at most `max_bytes`; raises `OversizedError` or `MalformedMessageError`."""
    if len(payload) > max_bytes:
        raise OversizedError(f"expected at most {max_bytes} bytes, got {len(payload)}")
    try:
        # Strictly UTF-8: `json.loads` would guess encodings and let lone surrogates through.
        text = payload.decode()
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise MalformedMessageError(f"expected a JSON object, got {payload[:40]!r} ({type(error).__name__})") from error
    if "\\u" in text:
        _refuse_unstorable(value)
    return Fields.of(value, "message")


def _refuse_unstorable(value: object) -> None:
    """Refuse NUL and lone surrogates, which only escapes can bring in and no database takes."""
    rest = [value]
    while rest:
        item = rest.pop()
        if isinstance(item, dict):
            rest += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            rest += item
        elif isinstance(item, str) and ("\x00" in item or any("\ud800" <= char <= "\udfff" for char in item)):
            raise MalformedMessageError(f"expected text without NUL and lone surrogates, got {item!r:.60}")


class Fields:
    """A read-only view of one JSON object whose accessors either return a value of the asked type or raise."""

    def __init__(self, values: Mapping[str, object], where: str) -> None:
        self._values = values
        self._where = where

    @classmethod
    def of(cls, value: object, where: str) -> "Fields":
        """Wrap `value`, which must be a JSON object; `where` names it in errors."""
        if not isinstance(value, dict):
            raise MalformedMessageError(f"{where}: expected an object, got {type(value).__name__}")
        return cls(value, where)

    def _get(self, key: str) -> object:
        return self._values.get(key)

    def _refuse(self, key: str, expected: str) -> MalformedMessageError:
        got = repr(self._values[key])[:60] if key in self._values else "nothing"
        return MalformedMessageError(f"{self._where}.{key}: expected {expected}, got {got}")

    def require_version(self, *spoken: int) -> int:
        """The message's format version `v`, which must be one of `spoken`."""
        version = self._get("v")
        if isinstance(version, bool) or not isinstance(version, int):
            raise self._refuse("v", "a format version")
        if version not in spoken:
            raise UnknownVersionError(f"{self._where}.v: expected one of {list(spoken)}, got {version}")
        return version

    def has(self, key: str) -> bool:
        """Whether `key` is present and not null."""
        return self._get(key) is not None

    def text(self, key: str, *, max_chars: int = limits.MAX_TEXT_CHARS, default: str | None = None) -> str:
        """A string of at most `max_chars` characters without NUL."""
        value = self._get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or len(value) > max_chars or "\x00" in value:
            raise self._refuse(key, f"a string of at most {max_chars} characters")
        return value

    def name(self, key: str, parse: Callable[[object], Parsed]) -> Parsed:
        """A value read by one of the `names.parse_*` functions."""
        try:
            return parse(self._get(key))
        except WireError as error:
            raise MalformedMessageError(f"{self._where}.{key}: {error}") from error

    def integer(
        self, key: str, *, minimum: int = 0, maximum: int = limits.MAX_COUNT, default: int | None = None
    ) -> int:
        """An integer in [minimum, maximum]; booleans and floats are refused."""
        value = self._get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            raise self._refuse(key, f"an integer from {minimum} to {maximum}")
        return value

    def number(self, key: str, *, minimum: float = 0.0, maximum: float = 1e18, default: float | None = None) -> float:
        """A finite number in [minimum, maximum]."""
        value = self._get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not minimum <= value <= maximum:
            raise self._refuse(key, f"a number from {minimum} to {maximum}")
        return float(value)

    def flag(self, key: str, *, default: bool | None = None) -> bool:
        """A boolean."""
        value = self._get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, bool):
            raise self._refuse(key, "true or false")
        return value

    def child(self, key: str) -> "Fields":
        """A nested object; absent means empty."""
        value = self._get(key)
        return Fields.of({} if value is None else value, f"{self._where}.{key}")

    def children(self, key: str, *, max_items: int) -> "list[Fields]":
        """A list of at most `max_items` objects; absent means empty."""
        value = self._get(key)
        if value is None:
            return []
        if not isinstance(value, list) or len(value) > max_items:
            raise self._refuse(key, f"a list of at most {max_items} objects")
        return [Fields.of(item, f"{self._where}.{key}[{index}]") for index, item in enumerate(value)]

    def texts(self, key: str, *, max_items: int = 64, max_chars: int = limits.MAX_TEXT_CHARS) -> tuple[str, ...]:
        """A list of strings; absent means empty."""
        value = self._get(key)
        if value is None:
            return ()
        if (
            not isinstance(value, list)
            or len(value) > max_items
            or not all(isinstance(item, str) and len(item) <= max_chars for item in value)
        ):
            raise self._refuse(key, f"a list of at most {max_items} strings of at most {max_chars} characters")
        return tuple(value)

    def pairs(self, key: str, *, max_items: int, max_chars: int = 4_096) -> dict[str, str]:
        """An object of strings to strings; absent means empty."""
        value = self._get(key)
        if value is None:
            return {}
        if (
            not isinstance(value, dict)
            or len(value) > max_items
            or not all(isinstance(item, str) and len(item) <= max_chars for item in value.values())
        ):
            raise self._refuse(key, f"an object of at most {max_items} strings")
        return dict(value)

    def raw(self, key: str) -> object:
        """The undecoded JSON value, for fields whose content the contract leaves open."""
        return self._get(key)
