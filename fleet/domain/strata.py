"""Which hardware classes are compared on their own and which together.

Fixed by the counts at the start of a phase, never by which devices happen to report: groups that followed the data
would be chosen by it.
"""

from dataclasses import dataclass
from typing import Final

from fleet.domain.verdicts import ClassCount, PhaseCounts

ALL_CLASSES: Final = "all classes"
MIN_TREATED: Final = 4
MIN_CONTROL: Final = 8
MIN_CONTROL_SHARE: Final = 0.1
ENOUGH_CONTROL: Final = 1_000  # however large the population is
# A class with fewer devices on a side, beside others, can fail a phase but is not asked to pass it by itself.
MIN_ALONE: Final = 20


@dataclass(frozen=True)
class Stratum:
    """Classes that are compared as one, with their planned devices. No classes means: nothing to compare."""

    name: str
    classes: frozenset[str]
    treated: int
    control: int
    population: int

    @property
    def is_small(self) -> bool:
        """Whether it has too few devices to prove by itself that nothing is wrong."""
        return min(self.treated, self.control) < MIN_ALONE


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
    if counts.control < min(MIN_CONTROL_SHARE * counts.population, ENOUGH_CONTROL) or counts.population == 0:
        return Comparison(
            (),
            reason=f"its control is {counts.control} of {counts.population} devices, less than a tenth of them and than {ENOUGH_CONTROL:,}",
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


@dataclass(frozen=True)
class Part:
    """Classes that limits are read for by themselves, with the devices that the phase treats of them."""

    name: str
    classes: frozenset[str]
    treated: int


def parts(counts: PhaseCounts, compared: Comparison) -> tuple[Part, ...]:
    """As they are compared or, where nothing is, every class; none where there is but one."""
    found = [Part(item.name, item.classes, item.treated) for item in compared.strata] or [
        Part(item.hardware_class, frozenset({item.hardware_class}), item.treated) for item in counts.classes
    ]
    return tuple(found) if len(found) > 1 else ()


def has_control(share: float, control_share: float, population: int) -> bool:
    """Whether a phase that treats `share` of so many devices leaves a control large enough to compare with."""
    left = min(control_share, 1 - share)
    return left >= MIN_CONTROL_SHARE or left * population >= ENOUGH_CONTROL


def _suffices(treated: int, control: int) -> bool:
    return treated >= MIN_TREATED and control >= MIN_CONTROL


def _stratum(items: list[ClassCount], present: int) -> Stratum:
    name = ALL_CLASSES if len(items) == present else items[0].hardware_class if len(items) == 1 else "other classes"
    return Stratum(
        name=name,
        classes=frozenset(item.hardware_class for item in items),
        treated=sum(item.treated for item in items),
        control=sum(item.control for item in items),
        population=sum(item.population for item in items),
    )
