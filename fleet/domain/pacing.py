"""How fast a rollout takes devices: caps on those under way and on those taken in a minute, and growth with success.

Pure: the counts are arguments. A cap never makes a device fail; it makes the answer "later", with a moment that
spreads those who wait over the time that the others need.
"""

import math
from dataclasses import dataclass
from typing import Final

from device_client.wire.fields import Fields
from fleet.domain.errors import InvalidInputError
from fleet.domain.gate_policy import known

MAX_DEVICES: Final = 10_000_000
LEAST_WAIT_S: Final = 15.0
LONGEST_WAIT_S: Final = 3_600.0
_GROWTH_KEYS: Final = frozenset({"start", "factor", "every"})


@dataclass(frozen=True)
class Growth:
    """At first `start` devices a minute; `factor` times as many after each `every` devices that committed."""

    start: int
    factor: float
    every: int


@dataclass(frozen=True)
class Pacing:
    """Zero means no cap. `silent_after_s`: a device of which nothing was heard for so long holds no place."""

    in_flight: int = 0
    per_minute: int = 0
    growth: Growth | None = None
    silent_after_s: float = 900.0

    @property
    def is_free(self) -> bool:
        """Whether nothing is capped."""
        return not self.in_flight and not self.per_minute and self.growth is None

    def rate(self, committed: int) -> int:
        """How many devices a minute, once `committed` have the version; zero means no cap."""
        if self.growth is None:
            return self.per_minute
        # After this many steps it is at its largest; a larger power could not be calculated.
        enough = math.ceil(math.log(MAX_DEVICES / self.growth.start, self.growth.factor))
        steps = min(committed // self.growth.every, enough)
        grown = min(float(MAX_DEVICES), self.growth.start * self.growth.factor**steps)
        return min(self.per_minute, int(grown)) if self.per_minute else int(grown)

    def needed_s(self, devices: int, *, each_s: float) -> float:
        """How long `devices` take at the least, if each is under way for `each_s` and everything succeeds."""
        by_flight = math.ceil(devices / self.in_flight) * each_s if self.in_flight else 0.0
        return max(by_flight, 60.0 * self._minutes(devices))

    def _minutes(self, devices: int) -> float:
        if self.growth is None:
            return devices / self.per_minute if self.per_minute else 0.0
        minutes, done = 0.0, 0
        while done < devices:
            batch = min(self.growth.every - done % self.growth.every, devices - done)
            rate = self.rate(done)
            if rate >= MAX_DEVICES or rate == self.per_minute:
                return minutes + (devices - done) / rate
            minutes += batch / rate
            done += batch
        return minutes

    def encode(self) -> dict[str, object]:
        """The JSON form."""
        growth = self.growth
        return {
            "in_flight": self.in_flight,
            "per_minute": self.per_minute,
            "growth": None
            if growth is None
            else {"start": growth.start, "factor": growth.factor, "every": growth.every},
            "silent_after_s": self.silent_after_s,
        }


@dataclass(frozen=True)
class Traffic:
    """What a rule has under way. `expected` is how many devices its present phase treats, as they were counted."""

    in_flight: int
    last_minute: int
    committed: int
    offered: int
    expected: int


@dataclass(frozen=True)
class Wait:
    """Why a device has to wait, and for how many seconds."""

    sentence: str
    after_s: float


def admit(pacing: Pacing, traffic: Traffic, spread: float) -> Wait | None:
    """None if one more device may begin now. `spread` in [0, 1) is the device's place among those who wait."""
    rate = pacing.rate(traffic.committed)
    left = max(1, traffic.expected - traffic.offered)
    if rate and traffic.last_minute >= rate:
        sentence = f"{traffic.last_minute} devices began within the last minute, the cap is {rate} a minute"
        return Wait(sentence, _bounded(60.0 * spread * left / rate))
    if pacing.in_flight and traffic.in_flight >= pacing.in_flight:
        sentence = f"{traffic.in_flight} devices are under way, the cap is {pacing.in_flight}"
        return Wait(sentence, _bounded(60.0 * spread * left / pacing.in_flight))
    return None


def parse_pacing(fields: Fields, where: str, *, silent_after_s: float) -> Pacing:
    """Read the caps; raises `InvalidInputError` for growth that does not grow."""
    growth = None
    if fields.has("growth"):
        said = known(fields.raw("growth"), _GROWTH_KEYS, f"{where}.growth")
        growth = Growth(
            start=said.integer("start", minimum=1, maximum=MAX_DEVICES),
            factor=said.number("factor", minimum=1.0, maximum=100.0),
            every=said.integer("every", minimum=1, maximum=MAX_DEVICES),
        )
        if growth.factor == 1.0:
            raise InvalidInputError(
                "policy_invalid", f"{where}.growth.factor: expected more than 1, got 1: use per_minute"
            )
    return Pacing(
        in_flight=fields.integer("in_flight", maximum=MAX_DEVICES, default=0),
        per_minute=fields.integer("per_minute", maximum=MAX_DEVICES, default=0),
        growth=growth,
        silent_after_s=fields.number("silent_after_s", minimum=1, maximum=31_536_000, default=silent_after_s),
    )


def _bounded(seconds: float) -> float:
    return min(LONGEST_WAIT_S, max(LEAST_WAIT_S, seconds))
