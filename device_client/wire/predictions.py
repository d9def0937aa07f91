"""Prediction ids: what a label that comes days later is credited to.

An id carries the device, model, version, assignment revision, route, second of the inference and (if short) the answer, so that
`feedback(id, label)` needs no memory on the device and survives swaps, rollbacks and restarts. Ids are not
secret and not signed: the server checks the device part against the topic and treats the rest as the device's word.

Form: `p1~<device>~<model>~<version>~<revision b36>~<route>~<second b36>~<nonce hex>~<answer, percent-encoded, may be empty>`
"""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote

from device_client.wire.errors import MalformedMessageError, WireError
from device_client.wire.limits import MAX_COUNT
from device_client.wire.names import parse_device_id, parse_model, parse_version

MAX_ID_CHARS: Final = 400
MAX_ANSWER_CHARS: Final = 120  # as encoded; a longer answer is left out
_ROUTE: Final = re.compile(r"[a-z0-9_-]{1,16}")
_NONCE: Final = re.compile(r"[0-9a-f]{6,24}")
_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class PredictionId:
    """Who predicted what, with which version, when. `second` is the device's clock, seconds since the epoch."""

    device_id: str
    model: str
    version: str
    revision: int
    route: str
    second: int
    nonce: str
    answer: str | None

    def __str__(self) -> str:
        answer = "" if self.answer is None else quote(self.answer, safe="").replace("~", "%7E")
        if len(answer) > MAX_ANSWER_CHARS:
            answer = ""
        return "~".join(
            (
                "p1",
                self.device_id,
                self.model,
                self.version,
                _base36(self.revision),
                self.route,
                _base36(self.second),
                self.nonce,
                answer,
            )
        )

    @classmethod
    def parse(cls, text: object) -> "PredictionId":
        """Parse an id; raises `MalformedMessageError`."""
        parts = text.split("~") if isinstance(text, str) and len(text) <= MAX_ID_CHARS else []
        if len(parts) != 9 or parts[0] != "p1":  # noqa: PLR2004 - the nine parts of the form above
            raise MalformedMessageError(f"expected a prediction id p1~..., got {text!r:.80}")
        _, device, model, version, revision, route, second, nonce, answer = parts
        try:
            if _ROUTE.fullmatch(route) is None or _NONCE.fullmatch(nonce) is None:
                raise MalformedMessageError(f"expected a route and a nonce, got {route!r:.40} and {nonce!r:.40}")
            return cls(
                device_id=parse_device_id(device),
                model=parse_model(model),
                version=parse_version(version),
                revision=_count(revision),
                route=route,
                second=_count(second),
                nonce=nonce,
                answer=unquote(answer) if answer else None,
            )
        except (WireError, ValueError) as error:
            raise MalformedMessageError(f"expected a prediction id, got {text!r:.80}: {error}") from error


def _count(text: str) -> int:
    """A number in base 36, no larger than what messages may count."""
    value = int(text, 36)
    if not 0 <= value <= MAX_COUNT:
        raise MalformedMessageError(f"expected a number up to {MAX_COUNT}, got {text!r:.40}")
    return value


def _base36(value: int) -> str:
    if value < 0:
        raise MalformedMessageError(f"expected a number >= 0, got {value}")
    out = ""
    while True:
        value, digit = divmod(value, 36)
        out = _DIGITS[digit] + out
        if value == 0:
            return out
