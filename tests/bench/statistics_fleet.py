"""Simulated fleets for the benchmark of statistics: what devices are, what they measure at every look, and how some lie.

Only the world is simulated here, with numpy: devices that differ, over-dispersed from look to look, with volumes that are
far apart. What the totals mean is the product's to say; `arms` adds them up as `fleet.domain.measure` does, which a test
holds against it, because a thousand rollouts of ten thousand devices are too many for its pure Python.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import numpy as np

from fleet.domain.gate_policy import MeasuredGate
from fleet.domain.measure import MIN_WITH_PAST
from fleet.domain.measurements import Arm, CrashCount, Measured, Measures, Side, WatchCount
from fleet.domain.policy import RolloutPolicy
from fleet.domain.stats.samples import MAD_TO_SD, MAX_TRIM, OUTLIER, OUTLIER_NOISE, TRIM_FROM, Location, Sample
from fleet.domain.strata import ALL_CLASSES, comparison, parts
from fleet.domain.verdicts import ClassCount, OfferCount, PhaseCounts

Array = np.ndarray[Any, np.dtype[Any]]
METRICS: Final = ("accuracy", "slow", "errors")


class Lie(StrEnum):
    """What lying devices want. They know their arm, and say the most extreme that a device can say."""

    NONE = "none"
    STOP = "stop"  # treated ones are always wrong and slow, those of the control always right and fast
    HIDE = "hide"  # the reverse: a bad version is to look good


@dataclass(frozen=True)
class HardwareClass:
    """A class, its share of the fleet, and what its devices are like before the rollout."""

    name: str
    share: float
    accuracy: float
    slow: float


CLASSES: Final = (
    HardwareClass("edge-std", 0.5, 0.90, 0.05),
    HardwareClass("edge-pro", 0.3, 0.93, 0.04),
    HardwareClass("orin", 0.2, 0.88, 0.06),
)


@dataclass(frozen=True)
class World:
    """How a fleet behaves. `labels` and `inferences` are what a device has in one look, on average.

    `accuracy_change` and `slow_times` are the version's doing. `drift` is what each phase does to the accuracy of
    everybody, treated or not.
    """

    devices: int = 10_000
    classes: tuple[HardwareClass, ...] = CLASSES
    labels: float = 10.0
    volume_sd: float = 0.6  # of the logarithm of how much a device has of either, beside the others
    inferences: float = 200.0
    accuracy_sd: float = 0.05
    accuracy_change: float = 0.0
    slow_times: float = 1.0
    crashes: float = 0.0005
    install_failures: float = 0.01
    liars: float = 0.0
    lie: Lie = Lie.NONE
    drift: tuple[float, ...] = ()
    jitter: float = 0.02  # of a device's accuracy from look to look
    past_looks: int = 6  # under the earlier version, before the rollout; 0 for devices without a past


class Fleet:
    """One fleet in one rollout. Totals are of the present phase."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.dice = np.random.default_rng(seed)
        n = world.devices
        shares = np.array([item.share for item in world.classes])
        self.kind = self.dice.choice(len(shares), size=n, p=shares / shares.sum())
        centre = np.array([item.accuracy for item in world.classes])[self.kind]
        self.accuracy = np.clip(self.dice.normal(centre, world.accuracy_sd), 0.02, 0.999)
        slow = np.array([item.slow for item in world.classes])[self.kind]
        self.slow = self.dice.beta(40 * slow, 40 * (1 - slow))
        self.volume = self.dice.lognormal(-(world.volume_sd**2) / 2, world.volume_sd, n)
        self.place = self.dice.random(n)
        self.lies = self.dice.random(n) < world.liars
        self.past: dict[str, tuple[Array, Array]] = {}
        self._no_past = np.zeros(n), np.zeros(n)
        self._remember()
        self.enter(0, 0.0, 0.0)

    def enter(self, phase: int, share: float, control_share: float) -> None:
        """Begin a phase: nothing of it is measured yet."""
        self.phase = phase
        self.treated = self.place < share
        self.control = ~self.treated & (self.place >= 1 - control_share)
        self.members = np.flatnonzero(self.treated | self.control)
        size = len(self.members)
        self.totals = {metric: (np.zeros(size), np.zeros(size)) for metric in METRICS}
        self.crashed = np.zeros(size, dtype=bool)
        self.looks = 0
        self._own: dict[frozenset[str], tuple[Array, Array]] = {}
        self._earlier: dict[str, Array] = {}
        self.refused = self.treated & (self.dice.random(self.world.devices) < self.world.install_failures)

    def _remember(self) -> None:
        """Everybody's time under the earlier version, before there was anything to lie about."""
        world, dice = self.world, self.dice
        if not world.past_looks:
            return
        labels = dice.poisson(world.past_looks * world.labels * self.volume)
        inferences = dice.poisson(world.past_looks * world.inferences * self.volume)
        self.past["accuracy"] = dice.binomial(labels, self.accuracy), labels
        self.past["slow"] = dice.binomial(inferences, self.slow), inferences
        self.past["errors"] = dice.binomial(inferences, 0.002), inferences

    def look(self) -> None:
        """What everybody measures until the next look."""
        world, dice, who = self.world, self.dice, self.members
        size, treated = len(who), self.treated[self.members]
        self.looks += 1
        drift = world.drift[self.phase] if world.drift else 0.0
        right = self.accuracy[who] + drift + treated * world.accuracy_change + dice.normal(0.0, world.jitter, size)
        slow = self.slow[who] * np.where(treated, world.slow_times, 1.0) * dice.lognormal(-0.02, 0.2, size)
        labels = dice.poisson(world.labels * self.volume[who])
        inferences = dice.poisson(world.inferences * self.volume[who])
        self._add("accuracy", dice.binomial(labels, np.clip(right, 0.0, 1.0)), labels)
        self._add("slow", dice.binomial(inferences, np.clip(slow, 0.0, 1.0)), inferences)
        self._add("errors", dice.binomial(inferences, 0.002), inferences)
        self.crashed |= dice.random(size) < world.crashes
        if world.lie is not Lie.NONE:
            self._lie(treated)

    def _add(self, metric: str, good: Array, whole: Array) -> None:
        numerator, denominator = self.totals[metric]
        numerator += good
        denominator += whole

    def _lie(self, treated: Array) -> None:
        lies = self.lies[self.members]
        bad = treated if self.world.lie is Lie.STOP else ~treated
        right, labels = self.totals["accuracy"]
        slow, inferences = self.totals["slow"]
        right[lies] = np.where(bad, 0.0, labels)[lies]
        slow[lies] = np.where(bad, inferences, 0.0)[lies]

    def counts(self) -> PhaseCounts:
        """The phase's population, by class."""
        found = []
        for number, item in enumerate(self.world.classes):
            own = self.kind == number
            found.append(
                ClassCount(item.name, int((own & self.treated).sum()), int((own & self.control).sum()), int(own.sum()))
            )
        return PhaseCounts(tuple(found))

    def offers(self) -> tuple[OfferCount, ...]:
        """Everybody who is treated was asked; a few refused."""
        found = []
        for number, item in enumerate(self.world.classes):
            own = (self.kind == number) & self.treated
            failed = int((own & self.refused).sum())
            found.append(OfferCount(item.name, int(own.sum()), int(own.sum()) - failed, failed, 0, 0))
        return tuple(found)

    def watched(self) -> tuple[WatchCount, ...]:
        """Nobody is silent."""
        counts = self.counts()
        return tuple(
            WatchCount(item.hardware_class, side, item.treated if side is Side.TREATED else item.control, 0)
            for item in counts.classes
            for side in Side
        )

    def measures(self, policy: RolloutPolicy, counts: PhaseCounts) -> Measures:
        """The arms of every gate."""
        compared = comparison(counts, has_baseline=True)
        names = [item.name for item in self.world.classes]
        strata: dict[str, frozenset[str]] = {ALL_CLASSES: frozenset(names)}
        strata |= {item.name: item.classes for item in parts(counts, compared)}
        strata |= {item.name: item.classes for item in compared.strata}
        by_gate = {
            (gate.name, name): self._measured(gate, self._members_of(classes))
            for gate in policy.gates.measured
            for name, classes in strata.items()
        }
        return Measures(by_gate, tuple(self._crashes()))

    def _members_of(self, classes: frozenset[str]) -> tuple[Array, Array]:
        """Where the treated and the control of these classes are among the members."""
        if classes not in self._own:
            numbers = [number for number, item in enumerate(self.world.classes) if item.name in classes]
            own, treated = np.isin(self.kind[self.members], numbers), self.treated[self.members]
            self._own[classes] = np.flatnonzero(own & treated), np.flatnonzero(own & ~treated)
        return self._own[classes]

    def _measured(self, gate: MeasuredGate, sides: tuple[Array, Array]) -> Measured:
        numerator, denominator = self.totals[gate.metric]
        chosen = [side[denominator[side] >= gate.min_per_device] for side in sides]
        earlier = self._before(gate)
        before = [earlier[side] for side in chosen]
        now = [numerator[side] / denominator[side] for side in chosen]
        theta, middle = past(before, now)
        arms = [
            arm(numerator[side], denominator[side], theta * (values - middle) if theta else None, limit=gate.limit)
            for side, values in zip(chosen, before, strict=True)
        ]
        return Measured(arms[0], arms[1], theta, self._own_past(numerator, denominator, chosen[0], before[0]))

    def _own_past(self, numerator: Array, denominator: Array, side: Array, before: Array) -> Sample:
        """The treated against themselves; asked for only where there is no control."""
        known = side[~np.isnan(before)]
        if self.control.any() or not len(known):
            return Sample()
        s, n = float(numerator[side].sum()), float(denominator[side].sum())
        own = numerator[known] / denominator[known] - before[~np.isnan(before)]
        return sample(own, 2 * _noise(s, n, denominator[side]))

    def _before(self, gate: MeasuredGate) -> Array:
        """What members said before, in order; not a number where they said too little."""
        if gate.name not in self._earlier:
            numerator, denominator = (item[self.members] for item in self.past.get(gate.metric, self._no_past))
            values = np.where(denominator >= gate.min_per_device, numerator / np.maximum(denominator, 1), np.nan)
            self._earlier[gate.name] = values
        return self._earlier[gate.name]

    def _crashes(self) -> Iterator[CrashCount]:
        for item in self.world.classes:
            for side, own in zip((Side.TREATED, Side.CONTROL), self._members_of(frozenset({item.name})), strict=True):
                if len(own):
                    yield CrashCount(
                        item.name, side, len(own), int(self.crashed[own].sum()), float(len(own) * self.looks)
                    )

    def pooled(self) -> Mapping[str, tuple[tuple[float, float], tuple[float, float]]]:
        """All inferences of each arm as if they were independent: numerator and denominator, treated and control."""
        treated = self.treated[self.members]
        return {
            metric: (
                (float(numerator[treated].sum()), float(denominator[treated].sum())),
                (float(numerator[~treated].sum()), float(denominator[~treated].sum())),
            )
            for metric, (numerator, denominator) in self.totals.items()
        }


def past(before: Sequence[Array], now: Sequence[Array]) -> tuple[float | None, float]:
    """`measure`'s coefficient of the past and its mean, over both arms; None where too few devices have one."""
    products = squares = total = 0.0
    sizes: list[int] = []
    for x, y in zip(before, now, strict=True):
        known = ~np.isnan(x)
        a, b = (x, y) if known.all() else (x[known], y[known])
        sizes.append(len(a))
        if len(a):
            whole = float(a.sum())
            apart = a - whole / len(a)
            products += float(apart @ b)
            squares += float(apart @ apart)
            total += whole
    if sum(sizes) < MIN_WITH_PAST or min(sizes) < 2:
        return None, 0.0
    theta = min(1.0, max(0.0, products / squares)) if squares > 0 else 0.0
    return theta, total / sum(sizes)


def arm(numerator: Array, denominator: Array, explained: Array | None = None, *, limit: float | None = 0.0) -> Arm:
    """One side of one stratum, as `measure` makes it. `explained` is what their past explains of these devices.

    Values as measured are asked for by limits alone; without a `limit` they are left as the adjusted ones.
    """
    if not len(numerator):
        return Arm()
    s, n = float(numerator.sum()), float(denominator.sum())
    noise = _noise(s, n, denominator)
    values = numerator / denominator
    if explained is None:
        adjusted = raw = sample(values, noise)
    else:
        adjusted = sample(values - np.where(np.isnan(explained), 0.0, explained), noise)
        raw = adjusted if limit is None else sample(values, noise)
    return Arm(len(values), s, n, float(values.sum()) / len(values), raw, adjusted)


def _noise(s: float, n: float, denominator: Array) -> float:
    share = (s + 1) / (n + 2)
    return share * (1 - share) * float((1 / denominator).sum()) / len(denominator)


def sample(values: Array, noise: float) -> Sample:
    """`Sample.of`, many times as fast."""
    ordered = _sorted(values.copy())
    n = len(ordered)
    plain = _location(ordered, 0, 0, noise)
    if n < TRIM_FROM:
        return Sample(plain, plain)
    middle = _median(ordered)
    spread = MAD_TO_SD * _median(_sorted(np.abs(ordered - middle)))
    reach = max(OUTLIER * spread, OUTLIER_NOISE * noise**0.5)
    most = int(MAX_TRIM * n)
    low = min(int(ordered.searchsorted(middle - reach, side="left")), most)
    high = min(n - int(ordered.searchsorted(middle + reach, side="right")), most)
    return Sample(plain, _location(ordered, low, high, noise) if low or high else plain)


def _sorted(values: Array) -> Array:
    values.sort()
    return values


def _median(ordered: Array) -> float:
    half = len(ordered) // 2
    return float(ordered[half]) if len(ordered) % 2 else float((ordered[half - 1] + ordered[half]) / 2)


def _location(ordered: Array, low: int, high: int, noise: float) -> Location:
    kept = ordered[low : len(ordered) - high]
    h, first, last = len(kept), float(kept[0]), float(kept[-1])
    mean = float(kept.sum()) / h
    winsorised = (h * mean + low * first + high * last) / len(ordered)
    apart = kept - winsorised
    squares = float(apart @ apart)
    squares += low * (first - winsorised) ** 2 + high * (last - winsorised) ** 2
    return Location(h, mean, squares / (h - 1) if h > 1 else 0.0, noise / h)
