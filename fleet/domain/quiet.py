"""Quiet hours of a namespace: windows in which nothing of it starts or goes on by itself. Pure; `now` is an argument.

They delay what the conductor would do next. They never delay a halt, a revert or a gate's verdict, and devices are not
asked about them: whoever is treated already goes on installing (a rollout's own windows are about that).
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from device_client.wire.errors import WireError
from fleet.domain.calendar import Calendar, parse_calendar
from fleet.domain.errors import InvalidInputError
from fleet.domain.gate_policy import known

MAX_WINDOWS: Final = 16
EVERY_DAY: Final = "daily"
_KEYS: Final = frozenset({"days", "hours", "time_zone"})
_WORDS: Final = 3
_CODE: Final = "quiet_hours_invalid"


@dataclass(frozen=True)
class QuietHours:
    """No windows mean no quiet hours. Windows may overlap, and may be of different time zones."""

    windows: tuple[Calendar, ...] = ()

    def until(self, now: datetime) -> datetime | None:
        """When the quiet that `now` lies in ends, over all windows that follow without a gap; None outside of them."""
        end: datetime | None = None
        # Each window closes once a day, so that a week's worth of steps is enough for all that are not closed for ever.
        for _ in range(8 * max(1, sum(len(item.hours) for item in self.windows))):
            closing = [found for item in self.windows if (found := item.closes_at(end or now)) is not None]
            if not closing:
                return end
            end = max(closing)
        return end

    def encode(self) -> list[dict[str, object]]:
        """The JSON form."""
        return [{key: value for key, value in item.encode().items() if key in _KEYS} for item in self.windows]

    @property
    def words(self) -> tuple[str, ...]:
        """A line each, as `window_of` reads it: `sat,sun 00:00-24:00 Europe/Berlin`."""
        found: list[str] = []
        for item in self.windows:
            said = item.encode()
            days = said["days"] if isinstance(said["days"], list) else []
            shown = EVERY_DAY if len(days) == 7 else ",".join(days)  # noqa: PLR2004 - days of a week
            found.append(f"{shown} {','.join(hours.text for hours in item.hours)} {item.zone}")
        return tuple(found)

    @classmethod
    def parse(cls, value: object) -> "QuietHours":
        """Read a list of windows; raises `InvalidInputError` that names the window, what was expected and what came."""
        if not isinstance(value, list) or len(value) > MAX_WINDOWS:
            got = f"{len(value)} windows" if isinstance(value, list) else type(value).__name__
            raise InvalidInputError(_CODE, f"quiet_hours: expected a list of at most {MAX_WINDOWS} windows, got {got}")
        try:
            windows = tuple(_window(item, f"quiet_hours[{index}]") for index, item in enumerate(value))
        except WireError as error:
            raise InvalidInputError(_CODE, str(error)) from error
        except InvalidInputError as error:
            raise InvalidInputError(_CODE, error.message) from error
        return cls(windows)


def window_of(words: str) -> dict[str, object]:
    """The JSON of a window that a person wrote: days, hours, time zone. Raises `InvalidInputError`."""
    parts = words.split()
    if len(parts) != _WORDS:
        raise InvalidInputError(
            _CODE, f"expected days, hours and a time zone such as sat,sun 00:00-24:00 Europe/Berlin, got {words!r:.80}"
        )
    days, hours, zone = parts
    chosen = [] if days == EVERY_DAY else days.split(",")
    return {"days": chosen, "hours": hours.split(","), "time_zone": zone}


def _window(value: object, where: str) -> Calendar:
    fields = known(value, _KEYS, where)
    if not fields.has("time_zone"):
        raise InvalidInputError(_CODE, f"{where}.time_zone: expected an IANA time zone such as Europe/Berlin, got none")
    calendar = parse_calendar(fields, where, zone="UTC")
    if calendar.longest_closed_s == 0:
        raise InvalidInputError(_CODE, f"{where}: expected some hour of the week that is not quiet, got none")
    return calendar
