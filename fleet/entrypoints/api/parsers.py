"""Bodies, bounded before they are read. JSON is decoded strictly: no NaN, no NUL, no half characters, no deep nesting."""

import json
import math
from collections.abc import Mapping
from typing import IO, Any, Final

from rest_framework.exceptions import ParseError
from rest_framework.parsers import BaseParser

from fleet.domain.errors import InvalidInputError, TooLargeError

# Room for 32 manifests of 64 KiB and a role of 1 MiB.
MAX_JSON_BYTES: Final = 4 << 20


class BoundedJsonParser(BaseParser):
    """`application/json` of at most `MAX_JSON_BYTES`."""

    media_type = "application/json"

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,  # noqa: ARG002 - the base class's signature
        parser_context: Mapping[str, Any] | None = None,  # noqa: ARG002
    ) -> Any:
        """The decoded body."""
        body = stream.read(MAX_JSON_BYTES + 1)
        if len(body) > MAX_JSON_BYTES:
            raise TooLargeError("body_too_large", f"expected a body of at most {MAX_JSON_BYTES} bytes, got more")
        try:
            text = body.decode("utf-8")
            value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
            if "\\u" in text:  # only an escape can bring in what no database takes
                _require_storable(value)
        except RecursionError as error:
            raise ParseError("expected JSON of reasonable depth, got deeper nesting") from error
        except (ValueError, UnicodeError) as error:
            raise ParseError(f"expected JSON, got: {error}"[:200]) from error
        return value


class RawParser(BaseParser):
    """Bytes as they come: the view reads the stream itself, as far as it wants to."""

    media_type = "application/octet-stream"

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,  # noqa: ARG002 - the base class's signature
        parser_context: Mapping[str, Any] | None = None,  # noqa: ARG002
    ) -> Any:
        """The stream itself."""
        return stream


def _refuse_constant(name: str) -> float:
    raise ValueError(f"expected finite numbers, got {name}")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"expected finite numbers, got {text[:40]}")
    return value


def _require_storable(value: object) -> None:
    """NUL and unpaired surrogates are JSON, but no database column takes them."""
    json.dumps(value, ensure_ascii=False).encode("utf-8")
    rest = [value]
    while rest:
        item = rest.pop()
        if isinstance(item, dict):
            rest += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            rest += item
        elif isinstance(item, str) and "\x00" in item:
            raise InvalidInputError("body_invalid", f"expected text without NUL characters, got {item!r:.60}")
