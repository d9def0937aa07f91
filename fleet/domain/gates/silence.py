"""Silence: devices that give no sign of life. A bricked device says nothing, so silence counts as failure at the deadline.

Limit: of the devices that were offered the version, those unheard of since. Comparison: of the devices that were there
before the phase began, on both sides and whoever was offered what, those that are silent now; who is online now must not
decide who is counted, or the bricked ones would be hidden. The comparison tells the version's silence from a network's
that hits everybody: proven excess over the control fails at once, and where the control is as silent, nobody is blamed.
"""

from typing import Final

from fleet.domain.gates.offers import SLACK, evidence_of, total_of
from fleet.domain.gates.words import estimate_evidence, percent, saying, undecided
from fleet.domain.measurements import Side, WatchCount
from fleet.domain.policy import RolloutPolicy
from fleet.domain.stats.contrasts import contrast, interval
from fleet.domain.stats.estimates import Estimate, Unjudgeable
from fleet.domain.stats.samples import Location
from fleet.domain.strata import ALL_CLASSES, MIN_CONTROL, MIN_TREATED
from fleet.domain.verdicts import GateResult, Kind, PhaseFacts, Verdict

SILENCE: Final = "silence"
TESTS: Final = 1


def judge(policy: RolloutPolicy, facts: PhaseFacts, alpha: float) -> GateResult:
    """The one result, over all classes."""
    total = total_of(facts.offers)
    limit, grace_s = policy.gates.silence_max_share, policy.gates.silence_grace_s
    treated, control = (_watch(facts.watched, side) for side in (Side.TREATED, Side.CONTROL))
    excess = _excess(treated, control, alpha)
    is_proven = isinstance(excess, Estimate) and excess.lower > 0
    # Those that installed it and fell silent afterwards are no open offers; the control tells them from the usual.
    falls_silent = isinstance(excess, Estimate) and excess.value > limit
    is_over = falls_silent or total.silent > limit * total.offered + SLACK
    words = f"{total.silent:,} of {total.offered:,} offered devices were silent for {grace_s:g} s or more (limit {percent(limit)}"
    beside = (
        f"); of those watched, {treated.silent:,} of {treated.devices:,} "
        f"and {control.silent:,} of {control.devices:,} control devices are"
    )
    if total.offered == 0:
        verdict, words = undecided(facts), "no device has asked for the version yet"
    elif not is_over:
        verdict, words = Verdict.PASS, f"{words})"
    elif is_proven:
        verdict, words = Verdict.FAIL, f"{words}{beside}"
    elif facts.at_deadline and control.devices >= MIN_CONTROL and control.silent > limit * control.devices + SLACK:
        verdict, words = Verdict.INCONCLUSIVE, f"{words}{beside}: the control is silent, too"
    else:
        verdict = Verdict.FAIL if facts.at_deadline else Verdict.WAIT
        words = f"{words}{beside}; counted at the deadline" if falls_silent else f"{words}, counted at the deadline)"
    evidence = {
        **evidence_of(total),
        "max_share": limit,
        "grace_s": grace_s,
        "alpha": alpha,
        "watched": {
            side.value: {"devices": item.devices, "silent": item.silent}
            for side, item in ((Side.TREATED, treated), (Side.CONTROL, control))
        },
        "excess": estimate_evidence(excess),
    }
    return GateResult(SILENCE, Kind.OFFERS, ALL_CLASSES, verdict, saying(verdict, words), evidence)


def _watch(watched: tuple[WatchCount, ...], side: Side) -> WatchCount:
    """Over all classes."""
    of_side = [item for item in watched if item.side is side]
    return WatchCount(ALL_CLASSES, side, sum(item.devices for item in of_side), sum(item.silent for item in of_side))


def _excess(treated: WatchCount, control: WatchCount, alpha: float) -> Estimate | Unjudgeable:
    """How much larger a share of the treated is silent, within [-1, 1]."""
    if treated.devices < MIN_TREATED or control.devices < MIN_CONTROL:
        return Unjudgeable(
            f"{treated.devices} treated and {control.devices} control devices are watched, "
            f"needs {MIN_TREATED} and {MIN_CONTROL}"
        )
    found = contrast(_share(treated), _share(control), planned_treated=treated.devices, planned_control=control.devices)
    return found if isinstance(found, Unjudgeable) else interval(found, alpha=alpha, within=(-1.0, 1.0))


def _share(item: WatchCount) -> Location:
    """The share of silent devices; its variance is that at (silent + 1) / (devices + 2)."""
    smoothed = (item.silent + 1) / (item.devices + 2)
    return Location(item.devices, item.silent / item.devices, smoothed * (1 - smoothed))
