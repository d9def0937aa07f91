"""What gates say and what they are told: verdicts with their sentences and evidence, and the facts of a phase.

Values only. `gate` judges; `conductor` acts on the judgement.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Verdict(StrEnum):
    """FAIL beyond the margin for sure, PASS within it for sure; WAIT before the deadline, INCONCLUSIVE at it."""

    PASS = "pass"  # noqa: S105 - a verdict
    FAIL = "fail"
    WAIT = "wait"
    INCONCLUSIVE = "inconclusive"


class Kind(StrEnum):
    """How a gate was judged."""

    OFFERS = "offers"  # counts of devices, intent to treat
    LIMIT = "limit"  # the treated devices alone
    CONTROL = "control"  # treated against control
    CARRIED = "carried"  # the verdict of the last phase that had a control


class Side(StrEnum):
    """Which arm a device's totals belong to."""

    TREATED = "treated"
    CONTROL = "control"


@dataclass(frozen=True)
class ClassCount:
    """How many active, eligible devices of one hardware class a phase treats and leaves as control."""

    hardware_class: str
    treated: int
    control: int
    population: int


@dataclass(frozen=True)
class PhaseCounts:
    """The population of one phase, counted once when it began."""

    classes: tuple[ClassCount, ...] = ()

    @property
    def treated(self) -> int:
        """Devices in the treated range, those of earlier phases included."""
        return sum(item.treated for item in self.classes)

    @property
    def control(self) -> int:
        """Devices in the control range."""
        return sum(item.control for item in self.classes)

    @property
    def population(self) -> int:
        """All active devices that the rollout is for and that a variant fits."""
        return sum(item.population for item in self.classes)


@dataclass(frozen=True)
class OfferCount:
    """What became of the offers to one hardware class, all phases so far. `silent` ones are among `pending`."""

    hardware_class: str
    offered: int = 0
    committed: int = 0
    failed: int = 0
    rolled_back: int = 0
    silent: int = 0

    @property
    def failures(self) -> int:
        """Offers that ended badly, before the swap or after it."""
        return self.failed + self.rolled_back


@dataclass(frozen=True)
class Row:
    """One device's total of one metric in this phase."""

    device_id: str
    hardware_class: str
    side: Side
    metric: str
    numerator: float
    denominator: float


@dataclass(frozen=True)
class Carried:
    """What a comparative gate said at the end of the last phase that it was judged in (counted from zero)."""

    phase: int
    verdict: Verdict
    sentence: str


@dataclass(frozen=True)
class PhaseFacts:
    """All that the gates of one phase are judged from. `carried` is keyed by the gate's name."""

    phase: int
    counts: PhaseCounts
    offers: tuple[OfferCount, ...] = ()
    rows: tuple[Row, ...] = ()
    carried: Mapping[str, Carried] = field(default_factory=dict)
    has_baseline: bool = True
    at_deadline: bool = False


@dataclass(frozen=True)
class GateResult:
    """One gate's word. `sentence` is for operators; `evidence` is JSON and is frozen with the decision."""

    gate: str
    kind: Kind
    stratum: str
    verdict: Verdict
    sentence: str
    evidence: Mapping[str, object]

    def encode(self) -> dict[str, object]:
        """The JSON form, as decisions keep it and the API shows it."""
        return {
            "name": self.gate,
            "kind": self.kind.value,
            "stratum": self.stratum,
            "verdict": self.verdict.value,
            "sentence": self.sentence,
            "evidence": dict(self.evidence),
        }


@dataclass(frozen=True)
class Judgement:
    """The word of all gates of a phase. `notes` say what was not judged, and why."""

    results: tuple[GateResult, ...]
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """FAIL if any gate fails; otherwise the least sure of them. No gates at all is no pass."""
        found = {result.verdict for result in self.results}
        for verdict in (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.WAIT):
            if verdict in found:
                return verdict
        return Verdict.PASS if found else Verdict.WAIT

    def having(self, verdict: Verdict) -> tuple[GateResult, ...]:
        """The results with this verdict."""
        return tuple(result for result in self.results if result.verdict is verdict)

    def encode(self) -> dict[str, object]:
        """The JSON form."""
        return {
            "verdict": self.verdict.value,
            "gates": [result.encode() for result in self.results],
            "notes": list(self.notes),
        }
