"""Whether an experiment can find what it looks for on a given fleet: devices per arm, sample size, time.

Errors refuse the start; warnings and notes are shown. The assumptions behind the sizes are `plan`'s, and are shown with
them: how much devices differ, and how much each has to say.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from device_client.wire.bucketing import BUCKETS, BucketRange
from fleet.domain.detectable import ASSUMED_ACCURACY, DEVICE_SD, UNITS_PER_DEVICE
from fleet.domain.experiment import ExperimentSpec, layout
from fleet.domain.gate_policy import POINTS, MeasuredGate
from fleet.domain.plan import Finding, Level, PlacedDevices
from fleet.domain.stats import planning
from fleet.domain.stats.estimates import Unjudgeable
from fleet.domain.strata import MIN_CONTROL, MIN_TREATED

SMALLEST_EFFECT: Final = 1e-4  # a margin of nothing is planned for as a hundredth of a point


@dataclass(frozen=True)
class ArmPlan:
    """One arm on this fleet, by hardware class."""

    name: str
    version: str
    share: float
    classes: dict[str, int]

    @property
    def devices(self) -> int:
        """All of them."""
        return sum(self.classes.values())


@dataclass(frozen=True)
class Sized:
    """What one comparison needs and what this fleet gives it; None with a sentence where nothing suffices.

    `effect_points` is what is looked for (of a guardrail, its margin), of a custom metric in its own unit;
    `detectable_points` what this fleet can see.
    """

    arm: str
    metric: str
    effect_points: float
    needed_treated: int | None
    needed_control: int | None
    detectable_points: float | None
    sentence: str


@dataclass(frozen=True)
class ExperimentPlan:
    """A specification on a fleet."""

    arms: tuple[ArmPlan, ...]
    sizes: tuple[Sized, ...]
    findings: tuple[Finding, ...]
    duration_s: float

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What refuses the start."""
        return tuple(item for item in self.findings if item.level is Level.ERROR)


def edges(spec: ExperimentSpec) -> tuple[int, ...]:
    """Where an arm's buckets begin or end, in rising order."""
    return tuple(sorted({edge for _, buckets in layout(spec) for edge in (buckets.start, buckets.end)}))


def plan(spec: ExperimentSpec, devices: Sequence[PlacedDevices]) -> ExperimentPlan:
    """Count, size, check."""
    arms = tuple(_counted(arm.name, arm.version, buckets, devices) for arm, buckets in layout(spec))
    by_name = {arm.name: arm for arm in arms}
    control = by_name[spec.control]
    sizes = (
        ()
        if spec.shadow is not None
        else tuple(
            _sized(spec, by_name[arm.name], control, metric)
            for arm in spec.treatments
            for metric in (*spec.success, *spec.guardrails)
        )
    )
    return ExperimentPlan(arms, sizes, tuple(_findings(spec, by_name, sizes)), spec.duration_s)


def _counted(name: str, version: str, buckets: BucketRange, devices: Sequence[PlacedDevices]) -> ArmPlan:
    classes: Counter[str] = Counter()
    for item in devices:
        if item.bucket in buckets:
            classes[item.hardware_class] += item.devices
    return ArmPlan(name, version, (buckets.end - buckets.start) / BUCKETS, dict(sorted(classes.items())))


def _sized(spec: ExperimentSpec, arm: ArmPlan, control: ArmPlan, metric: MeasuredGate) -> Sized:
    """At the level of one comparison that is looked at again and again; of a custom metric nobody knows the spread."""
    if metric.is_custom:
        sentence = f"{metric.name} of {arm.name}: nobody knows beforehand how much devices differ in it"
        return Sized(arm.name, metric.name, metric.margin or 0.0, None, None, None, sentence)
    share = ASSUMED_ACCURACY if metric.higher_is_better else 1 - ASSUMED_ACCURACY
    units = max(UNITS_PER_DEVICE, metric.min_per_device)
    effect = metric.margin or 0.0
    goal = planning.Goal(
        effect=max(effect, SMALLEST_EFFECT),
        unit_sd=math.sqrt(DEVICE_SD**2 + share * (1 - share) / units),
        alpha=spec.alpha / 2,
        power=spec.power,
        controls_per_treated=control.share / arm.share,
    )
    needed = planning.every_look(goal)
    seen = planning.detectable(goal, arm.devices)
    found = None if isinstance(seen, Unjudgeable) or seen >= 1 else round(POINTS * seen, 1)
    sees = "sees nothing for sure" if found is None else f"sees {found:g} points"
    needs = (
        needed.reason
        if isinstance(needed, Unjudgeable)
        else f"{POINTS * effect:g} points need {needed.treated} and {needed.control} devices"
    )
    return Sized(
        arm=arm.name,
        metric=metric.name,
        effect_points=POINTS * effect,
        needed_treated=None if isinstance(needed, Unjudgeable) else needed.treated,
        needed_control=None if isinstance(needed, Unjudgeable) else needed.control,
        detectable_points=found,
        sentence=f"{metric.name} of {arm.name}: with {arm.devices} and {control.devices} devices it {sees}; {needs}",
    )


def _findings(spec: ExperimentSpec, arms: Mapping[str, ArmPlan], sizes: Sequence[Sized]) -> list[Finding]:
    found: list[Finding] = []
    control = arms[spec.control]
    for arm in spec.treatments if spec.shadow is not None else ():
        if arms[arm.name].devices < MIN_CONTROL:
            sentence = (
                f"{arm.name} would have {arms[arm.name].devices} devices; a comparison with itself needs {MIN_CONTROL}"
            )
            found.append(Finding(Level.ERROR, "arms_too_small", sentence))
    for arm in spec.treatments if spec.shadow is None else ():
        devices = arms[arm.name].devices
        if devices < MIN_TREATED or control.devices < MIN_CONTROL:
            sentence = (
                f"{arm.name} would have {devices} devices and the control {control.devices}; "
                f"a comparison needs {MIN_TREATED} and {MIN_CONTROL}"
            )
            found.append(Finding(Level.ERROR, "arms_too_small", sentence))
    custom = {metric.name for metric in (*spec.success, *spec.guardrails) if metric.is_custom}
    for item in sizes:
        if item.metric in custom:
            found.append(Finding(Level.NOTE, "spread_unknown", item.sentence))
        elif item.detectable_points is None or item.detectable_points > item.effect_points:
            found.append(Finding(Level.WARNING, "effect_unseen", item.sentence))
    if spec.holdback:
        sentence = f"{spec.holdback:.0%} of the devices are held back from every arm"
        found.append(Finding(Level.NOTE, "holdback", sentence))
    if not spec.success:
        sentence = "no success metric: an arm wins by passing its guardrails"
        found.append(Finding(Level.NOTE, "guardrails_only", sentence))
    return found
