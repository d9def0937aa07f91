"""When a rollout may begin and go on: not before a moment, and at these hours. Pure; devices have windows of their own."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from device_client.wire.fields import Fields
from fleet.domain.calendar import Calendar, parse_calendar
from fleet.domain.errors import InvalidInputError

KEYS: Final = frozenset({"start_at", "days", "hours", "time_zone"})
DEFAULT_ZONE: Final = "UTC"
_LAST_YEAR: Final = 2200  # the hours of a week after it can still be reckoned with


@dataclass(frozen=True)
class Schedule:
    """Nothing said means at once and at any hour."""

    start_at: datetime | None = None
    calendar: Calendar | None = None

    def opens_at(self, now: datetime) -> datetime | None:
        """When a phase may begin, or None if it may now."""
        if self.start_at is not None and now < self.start_at:
            opens_at = None if self.calendar is None else self.calendar.opens_at(self.start_at)
            return opens_at or self.start_at
        return None if self.calendar is None else self.calendar.opens_at(now)

    def encode(self) -> dict[str, object]:
        """The JSON form."""
        said: dict[str, object] = {}
        if self.start_at is not None:
            said["start_at"] = self.start_at.isoformat()
        if self.calendar is not None:
            kept = self.calendar.encode()
            said |= {key: kept[key] for key in ("days", "hours", "time_zone")}
        return said


def parse_schedule(fields: Fields, where: str) -> Schedule:
    """Read it; raises `InvalidInputError` for a moment without a zone."""
    start_at = None
    if fields.has("start_at"):
        text = fields.text("start_at", max_chars=40)
        start_at = _moment(text)
        if start_at is None:
            raise InvalidInputError(
                "policy_invalid",
                f"{where}.start_at: expected a moment such as 2026-03-01T08:00:00Z, before the year {_LAST_YEAR}, got {text!r}",
            )
    has_hours = any(fields.has(key) for key in ("days", "hours", "time_zone"))
    return Schedule(start_at, parse_calendar(fields, where, zone=DEFAULT_ZONE) if has_hours else None)


def _moment(text: str) -> datetime | None:
    """A moment with its zone, in UTC; None for anything else, and for one that no calendar gets to."""
    try:
        found = datetime.fromisoformat(text)
        moment = found.astimezone(UTC) if found.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
    return moment if moment is not None and moment.year < _LAST_YEAR else None
