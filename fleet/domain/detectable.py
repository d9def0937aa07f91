"""What the gates of a plan can see before anything has been measured: minimum detectable effects.

For comparisons in percentage points, under stated assumptions on how much devices differ and how much each says; for
counts of devices, the number that fails a phase. A custom metric has a spread that nobody has declared, so it has none.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from fleet.domain.gate import budget
from fleet.domain.gate_policy import POINTS, MeasuredGate, Shape
from fleet.domain.gates.offers import SLACK, proves
from fleet.domain.policy import RolloutPolicy
from fleet.domain.stats.contrasts import combined, contrast, interval
from fleet.domain.stats.estimates import Unjudgeable
from fleet.domain.stats.samples import Location
from fleet.domain.stats.shares import lower_bound
from fleet.domain.strata import ALL_CLASSES, Stratum, comparison
from fleet.domain.verdicts import PhaseCounts

# Assumptions of the planned power, shown with it: how much devices differ, and how much each has to say.
DEVICE_SD: Final = 0.05
UNITS_PER_DEVICE: Final = 50
ASSUMED_ACCURACY: Final = 0.9
POWER_Z: Final = 0.8416  # 80% power


@dataclass(frozen=True)
class Detectable:
    """The smallest true change that a gate in this phase catches in four of five rollouts.

    `drop_points` is for comparisons, in percentage points: what a FAIL needs beyond zero, None where even a total
    collapse would not be certain. `proves_points` is the smallest margin within which an unchanged version is proven.
    `devices` is for counts: so many of the treated fail the phase whatever the others do, None where not even all do;
    fewer, but `held_at` or more, hold it until a person decides. `sentence` is for people.
    """

    gate: str
    phase: int
    stratum: str
    treated: int
    control: int
    drop_points: float | None
    proves_points: float | None = None
    devices: int | None = None
    sentence: str = ""
    held_at: int | None = None


def detectable(policy: RolloutPolicy, phases: Sequence[PhaseCounts], *, has_baseline: bool) -> tuple[Detectable, ...]:
    """Of every gate in every phase that it is judged in."""
    found: list[Detectable] = []
    for index, counts in enumerate(phases):
        allotted = budget(policy, index, counts, has_baseline=has_baseline)
        strata = comparison(counts, has_baseline=has_baseline).strata
        for gate in policy.gates.comparative:
            found += _comparisons(gate, index, counts, strata, allotted.comparative)
        if counts.treated:
            found += _counts(policy, index, counts, allotted.absolute)
    return tuple(replace(item, sentence=_sentence(item)) for item in found)


def _sentence(item: Detectable) -> str:
    gate = item.gate.replace("_", " ")
    where = f"phase {item.phase + 1}, {gate}, {item.stratum} ({item.treated:,} and {item.control:,} devices)"
    fails = "" if item.devices is None else f"fails at {item.devices:,} of the treated"
    if item.held_at is not None and item.held_at != item.devices:
        return f"{where}: is held at {item.held_at:,}{f', {fails}' if fails else ' of the treated, and never fails'}"
    if fails:
        return f"{where}: {fails}"
    if item.drop_points is None or item.proves_points is None:
        return f"{where}: nothing is certain"
    return f"{where}: sees {item.drop_points:.1f} points, proves a margin of {item.proves_points:.1f}"


def unprovable(policy: RolloutPolicy, phases: Sequence[PhaseCounts]) -> tuple[str, ...]:
    """Comparisons that are too small for their own margins: even an unchanged version would be held, not passed."""
    margins = {gate.name: gate.margin for gate in policy.gates.comparative if gate.max_ratio is None}
    sentences: list[str] = []
    for item in detectable(policy, phases, has_baseline=True):
        margin = margins.get(item.gate)
        is_whole = item.stratum == ALL_CLASSES or len(phases[item.phase].classes) == 1
        if margin is None or item.devices is not None or not is_whole or item.proves_points is None:
            continue
        if item.proves_points > POINTS * margin:
            sentences.append(
                f"phase {item.phase + 1}: {item.treated:,} and {item.control:,} devices prove {item.gate} within "
                f"{item.proves_points:.1f} points, its margin is {POINTS * margin:g}: a version that is no worse would be "
                f"held at the deadline unless each device has many more than {UNITS_PER_DEVICE} labels or inferences; give it a "
                "larger share or margin, an absolute limit, or use the preset manual"
            )
    return tuple(sentences)


def _comparisons(
    gate: MeasuredGate, phase: int, counts: PhaseCounts, strata: tuple[Stratum, ...], alpha: float
) -> list[Detectable]:
    if not strata:
        return []
    each = alpha if len(strata) == 1 else alpha / 2 / len(strata)
    reaches = [(item.name, item.treated, item.control, _reach(gate, (item,), each)) for item in strata]
    if len(strata) > 1:
        reaches.insert(0, (ALL_CLASSES, counts.treated, counts.control, _reach(gate, strata, alpha / 2)))
    found: list[Detectable] = []
    for name, treated, control, reach in reaches:
        drop = None if reach is None else (gate.margin or 0.0) + reach
        found.append(
            Detectable(
                gate.name,
                phase,
                name,
                treated,
                control,
                None if drop is None or drop >= 1 else round(POINTS * drop, 1),
                None if reach is None or reach >= 1 else round(POINTS * reach, 1),
            )
        )
    return found


def _reach(gate: MeasuredGate, strata: tuple[Stratum, ...], alpha: float) -> float | None:
    """How far from the margin an effect must be, as a share; None where no effect suffices or nothing is assumed."""
    if gate.shape is not Shape.SHARE:
        return None
    share = ASSUMED_ACCURACY if gate.higher_is_better else 1 - ASSUMED_ACCURACY
    spread = DEVICE_SD**2 + share * (1 - share) / max(UNITS_PER_DEVICE, gate.min_per_device)
    parts = []
    for item in strata:
        found = contrast(
            Location(item.treated, share, spread),
            Location(item.control, share, spread),
            planned_treated=item.treated,
            planned_control=item.control,
        )
        if not isinstance(found, Unjudgeable):
            parts.append((found, float(item.population)))
    if not parts:
        return None
    bounds = interval(combined(parts), alpha=alpha)
    reach = (bounds.multiplier + POWER_Z) * bounds.standard_error
    return reach if math.isfinite(reach) else None


def _counts(policy: RolloutPolicy, phase: int, counts: PhaseCounts, alpha: float) -> list[Detectable]:
    """How many devices fail a phase once all have concluded."""
    gates, treated = policy.gates, counts.treated
    plain = Detectable("", phase, ALL_CLASSES, treated, counts.control, None)
    limits = [("install_failures", gates.install_max_share)]
    limits += [("rollbacks", gates.rollback_max_share)] if gates.rollback_max_share is not None else []
    found = [
        replace(plain, gate=name, held_at=_more_than(limit, treated), devices=_least_failures(limit, treated, alpha))
        for name, limit in limits
    ]
    found.append(replace(plain, gate="silence", devices=_more_than(gates.silence_max_share, treated)))
    if gates.crash is not None:
        least = _least_over(gates.crash.max_share, treated, alpha)
        found.append(replace(plain, gate="crashes", devices=least))
    return found


def _more_than(limit: float, devices: int) -> int | None:
    """The fewest of so many devices that are more than this share of them; None if all of them are not."""
    least = math.floor(limit * devices + SLACK) + 1
    return least if least <= devices else None


def _least_failures(limit: float, devices: int, alpha: float) -> int | None:
    """The fewest that fail a phase in which all have concluded; None if all of them do not."""

    def fails(bad: int) -> bool:
        return proves(bad, concluded=devices, among=devices, limit=limit, alpha=alpha)

    return _least(fails, devices)


def _least_over(limit: float, devices: int, alpha: float) -> int | None:
    """The fewest of so many devices that prove the limit exceeded; None if all of them do not."""
    return _least(lambda events: lower_bound(events, devices, alpha) > limit, devices)


def _least(proven: Callable[[int], bool], devices: int) -> int | None:
    """By bisection, since one device more never proves less: a million devices are not to be tried one by one."""
    least = bisect_left(range(devices + 1), 1, key=proven)
    return least if least <= devices else None
