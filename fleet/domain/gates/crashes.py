"""Crashes: devices whose application died at least once under the version. A device in a crash loop counts once.

Limit: the share of the treated that crashed. Comparison: of the devices that crashed, how many were treated, against the
treated devices' share of the hours; the bound is the uniform mixture of `stats.shares`, which holds at every look and
needs no approximation (Lindon and Malek, 2020, for two arms). A phase fails only beyond the limit, and there either for
sure or by more than `max_ratio` times the control's rate: the limit is the least effect that matters.
"""

import math
from collections.abc import Sequence
from typing import Final

from fleet.domain.gate_policy import CrashGate
from fleet.domain.gates.offers import SLACK, total_of
from fleet.domain.gates.words import on, percent, saying, undecided
from fleet.domain.measurements import CrashCount, Side
from fleet.domain.stats.shares import lower_bound
from fleet.domain.strata import ALL_CLASSES, MIN_TREATED
from fleet.domain.verdicts import GateResult, Kind, PhaseFacts, Verdict

CRASHES: Final = "crashes"


def tests(classes: int) -> int:
    """How many bounds are read in a phase: limit and ratio, over all classes and in each."""
    return 2 * (1 + (classes if classes > 1 else 0))


def judge(gate: CrashGate, facts: PhaseFacts, alpha: float) -> list[GateResult]:
    """Over all classes, then each class that fails by itself."""
    counts = facts.measures.crashes
    results = [_judged(gate, facts, counts, ALL_CLASSES, alpha)]
    names = sorted({item.hardware_class for item in counts})
    for name in names if len(names) > 1 else ():
        found = _judged(gate, facts, [item for item in counts if item.hardware_class == name], name, alpha)
        if found.verdict is Verdict.FAIL:
            results.append(found)
    return results


def _judged(gate: CrashGate, facts: PhaseFacts, counts: Sequence[CrashCount], stratum: str, alpha: float) -> GateResult:
    treated, control = (_summed(counts, side) for side in (Side.TREATED, Side.CONTROL))
    is_over = treated.crashed > gate.max_share * treated.devices + SLACK
    share_at_least = lower_bound(treated.crashed, treated.devices, alpha)
    ratio_at_least = _ratio_at_least(treated, control, alpha)
    is_worse = ratio_at_least is not None and ratio_at_least > gate.max_ratio
    needed = max(min(MIN_TREATED, facts.counts.treated), math.ceil(total_of(facts.offers).committed / 2), 1)
    words = f"{treated.crashed:,} of {treated.devices:,} devices crashed{on(stratum)} (limit {percent(gate.max_share)})"
    beside = f"{words}; {control.crashed:,} of {control.devices:,} control devices did"
    if is_over and is_worse:
        verdict = Verdict.FAIL
        words = f"{beside}: per hour more than {ratio_at_least:.1f} times as often (limit {gate.max_ratio:g} times)"
    elif share_at_least > gate.max_share:
        verdict, words = Verdict.FAIL, beside if control.devices else words
    elif treated.devices < needed:
        verdict, words = undecided(facts), f"crashes are known from {treated.devices:,} devices, needs {needed:,}"
    elif not is_over:
        verdict = Verdict.PASS
    else:
        verdict, words = undecided(facts), f"{words}, not beyond doubt"
    evidence = {
        "max_share": gate.max_share,
        "max_ratio": gate.max_ratio,
        "alpha": alpha,
        "needed_devices": needed,
        "share_at_least": round(share_at_least, 6),
        "ratio_at_least": None if ratio_at_least is None else round(ratio_at_least, 4),
        "treated": {"devices": treated.devices, "crashed": treated.crashed, "hours": round(treated.hours, 3)},
        "control": {"devices": control.devices, "crashed": control.crashed, "hours": round(control.hours, 3)},
    }
    return GateResult(CRASHES, Kind.LIMIT, stratum, verdict, saying(verdict, words), evidence)


def _summed(counts: Sequence[CrashCount], side: Side) -> CrashCount:
    of_side = [item for item in counts if item.side is side]
    return CrashCount(
        ALL_CLASSES,
        side,
        sum(item.devices for item in of_side),
        sum(item.crashed for item in of_side),
        math.fsum(item.hours for item in of_side),
    )


def _ratio_at_least(treated: CrashCount, control: CrashCount, alpha: float) -> float | None:
    """How many times the control's rate the treated's is at least; None without a control to compare with."""
    crashed = treated.crashed + control.crashed
    if crashed == 0 or min(treated.hours, control.hours) <= 0:
        return None
    share = lower_bound(treated.crashed, crashed, alpha)
    odds = share / (1 - share) if share < 1 else math.inf
    return odds * control.hours / treated.hours
