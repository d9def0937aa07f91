"""Which hardware classes are compared on their own, which together, and how the error budget is shared out.

Fixed by the counts at the start of a phase, never by which devices happen to report: groups that followed the data
would be chosen by it.
"""

from dataclasses import dataclass
from typing import Final

from fleet.domain.policy import RolloutPolicy
from fleet.domain.verdicts import ClassCount, PhaseCounts

ALL_CLASSES: Final = "all classes"
MIN_TREATED: Final = 4
MIN_CONTROL: Final = 8
MIN_CONTROL_SHARE: Final = 0.1
# Of a rollout's alpha, what goes to comparisons with the control; the rest goes to limits and failure counts.
COMPARATIVE_BUDGET: Final = 0.8


@dataclass(frozen=True)
class Stratum:
    """Classes that are compared as one, with their planned devices. No classes means: nothing to compare."""

    name: str
    classes: frozenset[str]
    treated: int
    control: int


@dataclass(frozen=True)
class Comparison:
    """The strata of one phase, and sentences on what was merged or left out. No strata: `reason` says why."""

    strata: tuple[Stratum, ...]
    notes: tuple[str, ...] = ()
    reason: str = ""


def comparison(counts: PhaseCounts, *, has_baseline: bool) -> Comparison:
    """How a phase with these counts is compared with its control, if it can be at all."""
    if not has_baseline:
        return Comparison((), reason="there is no earlier version to compare with")
    if counts.population == 0 or counts.control < MIN_CONTROL_SHARE * counts.population:
        return Comparison(
            (), reason=f"its control is {counts.control} of {counts.population} devices, less than a tenth"
        )
    present = [item for item in counts.classes if item.treated + item.control > 0]
    alone = [item for item in present if _suffices(item.treated, item.control)]
    rest = [item for item in present if item not in alone]
    strata = [_stratum([item], len(present)) for item in alone]
    notes: list[str] = []
    if rest:
        merged = _stratum(rest, len(present))
        names = ", ".join(sorted(merged.classes))
        if _suffices(merged.treated, merged.control):
            strata.append(merged)
            if len(rest) > 1:
                notes.append(
                    f"{names} are compared together: alone none has {MIN_TREATED} treated and {MIN_CONTROL} control"
                )
        elif alone:
            notes.append(
                f"{names}: {merged.treated} treated and {merged.control} control devices are too few to compare"
            )
    if not strata:
        return Comparison(
            (),
            reason=f"it has {counts.treated} treated and {counts.control} control devices, "
            f"fewer than {MIN_TREATED} and {MIN_CONTROL}",
        )
    return Comparison(tuple(strata), tuple(notes))


def comparative_alpha(policy: RolloutPolicy, strata: int) -> float:
    """The error of one comparison: the budget over phases with a control, gates and strata."""
    phases = sum(1 for phase in policy.phases if has_control(phase.share, policy.control_share)) or 1
    return policy.alpha * COMPARATIVE_BUDGET / (phases * max(1, len(policy.gates.comparative)) * max(1, strata))


def absolute_alpha(policy: RolloutPolicy, classes: int) -> float:
    """The error of one limit or failure bound: the rest of the budget over all phases and what is judged in each."""
    limits = sum(1 for gate in policy.gates.measured if gate.limit is not None)
    return policy.alpha * (1 - COMPARATIVE_BUDGET) / (len(policy.phases) * (1 + classes + limits))


def has_control(share: float, control_share: float) -> bool:
    """Whether a phase that treats `share` leaves a control large enough to compare with."""
    return min(control_share, 1 - share) >= MIN_CONTROL_SHARE


def _suffices(treated: int, control: int) -> bool:
    return treated >= MIN_TREATED and control >= MIN_CONTROL


def _stratum(items: list[ClassCount], present: int) -> Stratum:
    name = ALL_CLASSES if len(items) == present else items[0].hardware_class if len(items) == 1 else "other classes"
    return Stratum(
        name=name,
        classes=frozenset(item.hardware_class for item in items),
        treated=sum(item.treated for item in items),
        control=sum(item.control for item in items),
    )
