"""What an experiment is judged from and what is found: facts, shares, comparisons. Values only.

`experiment_analysis` finds; `experiment_decision` acts on what was found.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum

from fleet.domain.gate_policy import MeasuredGate
from fleet.domain.measurements import Total
from fleet.domain.stats.estimates import Estimate


class Role(StrEnum):
    """What a metric is asked for."""

    SUCCESS = "success"
    GUARDRAIL = "guardrail"
    INSTALLS = "installs"


class Finding(StrEnum):
    """What a comparison says. WAIT: neither is proven yet."""

    BETTER = "better"
    WORSE = "worse"  # proven, with an error from the harm budget
    PASS = "pass"  # noqa: S105 - within the margin for sure
    WAIT = "wait"


@dataclass(frozen=True)
class ArmOffer:
    """What became of the offers of one arm on one hardware class."""

    arm: str
    hardware_class: str
    offered: int
    committed: int = 0
    failed: int = 0
    rolled_back: int = 0


@dataclass(frozen=True)
class ArmRow:
    """One device's total of one metric since it was assigned. `before`: of its own time under the control's version."""

    arm: str
    device_id: str
    hardware_class: str
    metric: str
    numerator: float
    denominator: float
    squares: float = 0.0
    before: Total | None = None


@dataclass(frozen=True)
class Facts:
    """All that an experiment is judged from. `planned`: eligible devices by (arm, class), counted when it began.

    `dropped` are arms that were found harmful before: their devices are back, and nothing of them is judged again.
    """

    planned: Mapping[tuple[str, str], int]
    offers: tuple[ArmOffer, ...] = ()
    rows: tuple[ArmRow, ...] = ()
    dropped: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Shares:
    """Whether devices fell on the arms as the weights say. `p` holds at every look, `p_once` at one."""

    name: str
    counts: Mapping[str, int]
    weights: Mapping[str, float]
    p: float | None
    p_once: float | None
    rejected: bool
    sentence: str

    def encode(self) -> dict[str, object]:
        """The JSON form."""
        return {**asdict(self), "counts": dict(self.counts), "weights": dict(self.weights)}


@dataclass(frozen=True)
class ArmSum:
    """What one arm measured in a comparison; `ratio` is the mean over its devices."""

    devices: int
    numerator: float
    denominator: float
    ratio: float | None


@dataclass(frozen=True)
class Comparison:
    """One metric of one treatment against the control, in one stratum. Estimates are treatment minus control.

    `value` and its bounds leave out devices that stand far apart; `untrimmed` is the value with them. `theta` is how much
    of the devices' own past was taken out, None where there is none. In percentage points of 0.01, or in the metric's `own_unit`.
    """

    arm: str
    metric: str
    role: Role
    stratum: str
    finding: Finding
    sentence: str
    value: float | None = None
    lower: float | None = None
    upper: float | None = None
    margin: float | None = None
    higher_is_better: bool = True
    p: float | None = None
    p_adjusted: float | None = None
    is_deteriorated: bool = False
    treated: ArmSum | None = None
    control: ArmSum | None = None
    untrimmed: float | None = None
    theta: float | None = None
    own_unit: bool = False

    def encode(self) -> dict[str, object]:
        """The JSON form."""
        return {**asdict(self), "role": self.role.value, "finding": self.finding.value}


@dataclass(frozen=True)
class Judged:
    """A comparison with what its sentence is made of; without `bounds` there is nothing to tell."""

    comparison: Comparison
    metric: MeasuredGate
    bounds: Estimate | None = None
    than: str = "the control's"


@dataclass(frozen=True)
class Analysis:
    """Everything that was found, in the order of the arms. `notes` say what was merged or not judged, and why."""

    assigned: Shares
    reporting: Shares
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...] = ()

    def of(self, arm: str, role: Role) -> tuple[Comparison, ...]:
        """One arm's comparisons in one role."""
        return tuple(item for item in self.comparisons if item.arm == arm and item.role is role)

    def encode(self) -> dict[str, object]:
        """The JSON form, as decisions keep it and the API shows it."""
        return {
            "assigned": self.assigned.encode(),
            "reporting": self.reporting.encode(),
            "comparisons": [item.encode() for item in self.comparisons],
            "notes": list(self.notes),
        }
