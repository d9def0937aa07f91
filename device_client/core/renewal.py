"""When a certificate is renewed: at half its life, by the best time that this device has, and never in a loop.

Two times are known. The wall clock may be wrong; the journal's floor is a time that was signed, so it is not in the
future. The later of the two is what counts: a clock that has lost its battery does not let a certificate lapse unseen.

A clock that runs years ahead sees every certificate as lapsed, the new one too. What stops the loop is not a date but an
age by that same clock: within half a life of having received a certificate, it is not renewed.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from device_client.core.backoff import Backoff

LOOK_EVERY_S: Final = 3_600.0
FIRST_LOOK_WITHIN_S: Final = 60.0
# A server that is away comes back; one that refuses has said something that waiting may heal (a quota, a quarantine).
RETRY: Final = Backoff(least_s=5.0, first_s=30.0, most_s=3_600.0)


@dataclass(frozen=True)
class Validity:
    """From when until when a certificate is valid."""

    not_before_at: datetime
    not_after_at: datetime

    @property
    def half_life(self) -> timedelta:
        """Half of it."""
        return (self.not_after_at - self.not_before_at) / 2

    @property
    def renew_at(self) -> datetime:
        """From when on it should be replaced."""
        return self.not_before_at + self.half_life


def best_time(clock: datetime, floor: datetime | None) -> datetime:
    """The later of the wall clock and the last signed time."""
    return clock if floor is None else max(clock, floor)


def is_due(validity: Validity, received_at: datetime | None, now: datetime) -> bool:
    """Whether to ask for a new certificate. `received_at` is when this one came, by the clock that also says `now`."""
    if now < validity.renew_at:
        return False
    return received_at is None or not received_at <= now < received_at + validity.half_life


def has_lapsed(validity: Validity, now: datetime) -> bool:
    """Whether a broker would turn it away."""
    return now >= validity.not_after_at
