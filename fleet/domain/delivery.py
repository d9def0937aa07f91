"""When a device may take a version: at which hours, under which conditions, how many devices at a time. JSON in and out."""

from dataclasses import dataclass, field
from typing import Final

from device_client.wire.fields import Fields
from fleet.domain.calendar import DEVICE_ZONE, Calendar, parse_calendar
from fleet.domain.conditions import Conditions, parse_conditions
from fleet.domain.gate_policy import known, section
from fleet.domain.pacing import Pacing, parse_pacing

CALENDAR_KEYS: Final = frozenset({"days", "hours", "time_zone", "unknown_time_zone"})
_CONDITION_KEYS: Final = frozenset(Conditions.__dataclass_fields__)
_PACING_KEYS: Final = frozenset({"in_flight", "per_minute", "growth", "silent_after_s"})


@dataclass(frozen=True)
class Delivery:
    """No windows means any hour."""

    windows: Calendar | None = None
    conditions: Conditions = field(default_factory=Conditions)
    pacing: Pacing = field(default_factory=Pacing)

    def encode(self) -> dict[str, object]:
        """The JSON form."""
        return {
            "windows": None if self.windows is None else self.windows.encode(),
            "conditions": self.conditions.encode(),
            "pacing": self.pacing.encode(),
        }


def parse_delivery(fields: Fields, where: str, *, silent_after_s: float = 900.0) -> Delivery:
    """Read `windows`, `conditions` and `pacing`; raises `InvalidInputError` or `WireError`."""
    windows = fields.raw("windows")
    return Delivery(
        windows=None
        if windows is None
        else parse_calendar(known(windows, CALENDAR_KEYS, f"{where}.windows"), f"{where}.windows", zone=DEVICE_ZONE),
        conditions=parse_conditions(section(fields.raw("conditions"), _CONDITION_KEYS, f"{where}.conditions")),
        pacing=parse_pacing(
            section(fields.raw("pacing"), _PACING_KEYS, f"{where}.pacing"),
            f"{where}.pacing",
            silent_after_s=silent_after_s,
        ),
    )
