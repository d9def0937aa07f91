"""Hours of the week: when devices may take a version, and when a rollout may go on. Pure; `now` is an argument.

A window opens on its days at `start` and closes at `end`, by the wall clock of a time zone; one that ends before it
starts ends on the next day. Daylight saving is the zone's business: an hour that the clock skips is skipped, one that
it repeats is open twice. Zone names are looked up in the IANA database that comes with Python or the system, which is
the one thing here that is read and not given.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from device_client.wire.fields import Fields
from fleet.domain.errors import InvalidInputError

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DEVICE_ZONE: Final = "device"
ZONE_ATTRIBUTE: Final = "time_zone"  # how a device, or whoever enrols it, names its zone
MAX_HOURS: Final = 16
DAY_MINUTES: Final = 1_440
WEEK_MINUTES: Final = 7 * DAY_MINUTES
_HOURS: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-4]):([0-5]\d)")
_ZONE_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_+/-]{0,63}")


@dataclass(frozen=True, order=True)
class Hours:
    """From `start` to `end`, in minutes of the day; an end at or before the start is on the next day."""

    start: int
    end: int

    @property
    def minutes(self) -> int:
        """How long it is open."""
        return self.end - self.start if self.end > self.start else self.end + DAY_MINUTES - self.start

    @property
    def text(self) -> str:
        """`22:00-06:00`."""
        return f"{self.start // 60:02}:{self.start % 60:02}-{self.end // 60:02}:{self.end % 60:02}"


@dataclass(frozen=True)
class Calendar:
    """On these days (0 is Monday) at these hours. `zone` is an IANA name, or `device` for each device's own.

    `unknown_zone` stands in for the zone of a device that told none, or one that nobody knows.
    """

    days: frozenset[int]
    hours: tuple[Hours, ...]
    zone: str = DEVICE_ZONE
    unknown_zone: str = "UTC"

    def opens_at(self, now: datetime, zone: tzinfo | None = None) -> datetime | None:
        """When it next opens, or None while it is open. `zone` is the device's, where the calendar asks for it."""
        place = self._place(zone)
        local = now.astimezone(place)
        best: datetime | None = None
        for offset in range(-1, 9):
            for start, end in self._on(local, offset, place):
                if start <= now < end:
                    return None
                if start > now and (best is None or start < best):
                    best = start
            if best is not None and offset > 0:
                break
        return best

    def closes_at(self, now: datetime) -> datetime | None:
        """When the windows that are open now have all closed, or None while it is closed. By the calendar's own zone."""
        place = self._place(None)
        local = now.astimezone(place)
        return max(
            (end for offset in (-1, 0) for start, end in self._on(local, offset, place) if start <= now < end),
            default=None,
        )

    def shown(self) -> str:
        """`mon, tue at 22:00-06:00 (device time)`."""
        days = "every day" if len(self.days) == len(DAYS) else ", ".join(DAYS[day] for day in sorted(self.days))
        where = "device time" if self.zone == DEVICE_ZONE else self.zone
        return f"{days} at {', '.join(item.text for item in self.hours)} ({where})"

    @property
    def longest_closed_s(self) -> float:
        """The longest time that it stays closed, in seconds; daylight saving is left aside."""
        return 60.0 * max((run for run in _runs(self._minutes(), opened=False)), default=0)

    def least_open_s(self, span_s: float) -> float:
        """How long it is open within any stretch of `span_s` seconds, at the least; daylight saving is left aside."""
        minutes = self._minutes()
        span = max(0, int(span_s // 60))
        weeks, rest = divmod(span, WEEK_MINUTES)
        total = sum(minutes)
        current = least = sum(minutes[:rest])
        for start in range(WEEK_MINUTES):
            current += minutes[(start + rest) % WEEK_MINUTES] - minutes[start]
            least = min(least, current)
        return 60.0 * (weeks * total + least)

    def encode(self) -> dict[str, object]:
        """The JSON form."""
        return {
            "days": [DAYS[day] for day in sorted(self.days)],
            "hours": [item.text for item in self.hours],
            "time_zone": self.zone,
            "unknown_time_zone": self.unknown_zone,
        }

    def _place(self, device: tzinfo | None) -> tzinfo:
        if self.zone == DEVICE_ZONE:
            return device if device is not None else (known_zone(self.unknown_zone) or UTC)
        return known_zone(self.zone) or UTC

    def _on(self, local: datetime, offset: int, place: tzinfo) -> Iterator[tuple[datetime, datetime]]:
        """The windows that begin on the day `offset` days from `local`, as moments in UTC."""
        day = local.date() + timedelta(days=offset)
        if day.weekday() not in self.days:
            return
        midnight = datetime.combine(day, time(), tzinfo=place)
        for item in self.hours:
            start = midnight + timedelta(minutes=item.start)
            yield start.astimezone(UTC), (start + timedelta(minutes=item.minutes)).astimezone(UTC)

    def _minutes(self) -> list[int]:
        """1 for each open minute of a week that has no change of the clock."""
        found = [0] * WEEK_MINUTES
        for day in self.days:
            for item in self.hours:
                for minute in range(item.minutes):
                    found[(day * DAY_MINUTES + item.start + minute) % WEEK_MINUTES] = 1
        return found


def known_zone(name: str) -> tzinfo | None:
    """The zone of this IANA name; None for one that nobody knows."""
    if name == "UTC":
        return UTC
    if _ZONE_NAME.fullmatch(name) is None:
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def parse_calendar(fields: Fields, where: str, *, zone: str) -> Calendar:
    """Read `days`, `hours` and zones; absent days are all, absent hours the whole day. Raises `InvalidInputError`."""
    named = fields.texts("days", max_items=len(DAYS), max_chars=3) or DAYS
    if any(day not in DAYS for day in named):
        raise InvalidInputError(
            "policy_invalid", f"{where}.days: expected some of {', '.join(DAYS)}, got {named!r:.60}"
        )
    hours = fields.texts("hours", max_items=MAX_HOURS, max_chars=11) or ("00:00-24:00",)
    calendar = Calendar(
        days=frozenset(DAYS.index(day) for day in named),
        hours=tuple(sorted({_hours(item, f"{where}.hours") for item in hours})),
        zone=fields.text("time_zone", max_chars=64, default=zone),
        unknown_zone=fields.text("unknown_time_zone", max_chars=64, default="UTC"),
    )
    for key, name in (("time_zone", calendar.zone), ("unknown_time_zone", calendar.unknown_zone)):
        is_device = key == "time_zone" and name == DEVICE_ZONE == zone
        if not is_device and known_zone(name) is None:
            raise InvalidInputError(
                "policy_invalid", f"{where}.{key}: expected an IANA time zone such as Europe/Berlin, got {name!r:.70}"
            )
    return calendar


def _hours(text: str, where: str) -> Hours:
    match = _HOURS.fullmatch(text)
    found = None if match is None else Hours(*(int(a) * 60 + int(b) for a, b in (match.group(1, 2), match.group(3, 4))))
    if found is None or found.end > DAY_MINUTES or found.start == found.end:
        raise InvalidInputError("policy_invalid", f"{where}: expected hours such as 22:00-06:00, got {text!r:.40}")
    return found


def _runs(minutes: list[int], *, opened: bool) -> Iterator[int]:
    """The lengths of the stretches that are open, or closed, around the week; the whole week counts once."""
    wanted = int(opened)
    if wanted not in minutes:
        return
    if 1 - wanted not in minutes:
        yield WEEK_MINUTES
        return
    first = minutes.index(1 - wanted)
    run = 0
    for minute in [*minutes[first:], *minutes[:first]]:
        if minute == wanted:
            run += 1
        elif run:
            yield run
            run = 0
    if run:
        yield run
