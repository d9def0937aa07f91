"""The phases of a policy: whom each step reaches, for how long. JSON in, JSON out.

A phase says its reach in one of three ways: a `share` of the population, a `count` of devices, or `devices` by name.
Share and count may be for some hardware classes only; `each` set to `hardware_class` stands for one such phase per
class, the smallest class first, which `plan.fit` writes out once the fleet is known.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from device_client.wire.errors import WireError
from device_client.wire.fields import Fields
from device_client.wire.names import parse_device_id
from fleet.domain.errors import InvalidInputError

MAX_PHASES: Final = 32
MAX_LISTED: Final = 1_000
MAX_COUNT: Final = 10_000_000
MAX_CLASSES: Final = 64
DAY_S: Final = 86_400.0
YEAR_S: Final = 365 * DAY_S
EACH_CLASS: Final = "hardware_class"
_KEYS: Final = frozenset({"share", "count", "devices", "hardware_classes", "each", "min_duration_s", "deadline_s"})


@dataclass(frozen=True)
class Phase:
    """One step, which lasts at least and at most so long. `share` is zero where count or devices say whom it reaches."""

    share: float
    min_duration_s: float
    deadline_s: float
    count: int | None = None
    devices: tuple[str, ...] = ()
    hardware_classes: tuple[str, ...] = ()
    each_class: bool = False

    @property
    def words(self) -> str:
        """`5%`, `50 devices of edge-std`, `3 named devices`."""
        if self.devices:
            return f"{len(self.devices)} named {'device' if len(self.devices) == 1 else 'devices'}"
        amount = f"{100 * self.share:g}%" if self.count is None else f"{self.count} devices"
        if self.each_class:
            return f"{amount} of each hardware class"
        return f"{amount} of {', '.join(self.hardware_classes)}" if self.hardware_classes else amount

    def encode(self) -> dict[str, object]:
        """The JSON form."""
        reach: dict[str, object] = {"share": self.share}
        if self.devices:
            reach = {"devices": list(self.devices)}
        elif self.count is not None:
            reach = {"count": self.count}
        if self.hardware_classes:
            reach["hardware_classes"] = list(self.hardware_classes)
        if self.each_class:
            reach["each"] = EACH_CLASS
        return {**reach, "min_duration_s": self.min_duration_s, "deadline_s": self.deadline_s}


def parse_phases(value: object) -> tuple[Phase, ...]:
    """Read them; raises `InvalidInputError` that names the phase, what was expected and what came."""
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_PHASES:
        raise InvalidInputError(
            "policy_invalid", f"policy.phases: expected 1 to {MAX_PHASES} phases, got {value!r:.60}"
        )
    return tuple(_phase(item, f"policy.phases[{index}]") for index, item in enumerate(value))


def device_ids(fields: Fields, key: str, where: str) -> tuple[str, ...]:
    """A list of at most MAX_LISTED different device ids; absent means empty."""
    named = fields.texts(key, max_items=MAX_LISTED, max_chars=63)
    try:
        found = tuple(parse_device_id(name) for name in named)
    except WireError as error:
        raise InvalidInputError("policy_invalid", f"{where}.{key}: {error}") from error
    if len(set(found)) < len(found):
        twice = next(name for name in found if found.count(name) > 1)
        raise InvalidInputError("policy_invalid", f"{where}.{key}: expected each device once, got {twice} twice")
    return found


def _phase(value: object, where: str) -> Phase:
    fields = Fields.of(value, where)
    unknown = sorted(set(value) - _KEYS) if isinstance(value, Mapping) else []
    if unknown:
        raise InvalidInputError(
            "policy_invalid", f"{where}: expected only {', '.join(sorted(_KEYS))}, got {', '.join(unknown)[:80]}"
        )
    said = [key for key in ("share", "count", "devices") if fields.has(key)]
    if not said:
        raise InvalidInputError("policy_invalid", f"{where}.share: expected a share, a count or devices, got nothing")
    if len(said) > 1:
        got = " and ".join(said)
        raise InvalidInputError("policy_invalid", f"{where}: expected one of share, count and devices, got {got}")
    devices = device_ids(fields, "devices", where)
    classes = fields.texts("hardware_classes", max_items=MAX_CLASSES, max_chars=63)
    each = fields.text("each", max_chars=32, default="")
    if each not in ("", EACH_CLASS):
        raise InvalidInputError("policy_invalid", f"{where}.each: expected {EACH_CLASS}, got {each!r}")
    if "devices" in said and not devices:
        raise InvalidInputError("policy_invalid", f"{where}.devices: expected 1 to {MAX_LISTED} device ids, got none")
    if (devices and (classes or each)) or (classes and each):
        raise InvalidInputError(
            "policy_invalid", f"{where}: expected only one of devices, hardware_classes and each, got several"
        )
    return Phase(
        share=fields.number("share", minimum=1e-6, maximum=1.0, default=0.0),
        count=fields.integer("count", minimum=1, maximum=MAX_COUNT) if "count" in said else None,
        devices=devices,
        hardware_classes=classes,
        each_class=bool(each),
        min_duration_s=fields.number("min_duration_s", maximum=YEAR_S, default=0.0),
        deadline_s=fields.number("deadline_s", minimum=1, maximum=YEAR_S, default=7 * DAY_S),
    )
