"""What gates say and what they are told: verdicts with their sentences and evidence, and the facts of a phase.

Values only. `gate` judges; `conductor` acts on the judgement.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from fleet.domain.budget import Allotment, Spent
from fleet.domain.measurements import Measures, WatchCount


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
    OWN_PAST = "own_past"  # treated against their own time under the earlier version
    ARMS = "arms"  # whether devices are shared out over the arms as they were meant to be


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

    @property
    def pending(self) -> int:
        """Offers that have not ended yet."""
        return self.offered - self.committed - self.failures


@dataclass(frozen=True)
class Carried:
    """What a comparative gate said at the end of the last phase that it was judged in (counted from zero)."""

    phase: int
    verdict: Verdict
    sentence: str


@dataclass(frozen=True)
class PhaseFacts:
    """All that the gates of one phase are judged from. `carried` is keyed by the gate's name.

    `watched` are the devices that were there before the phase began, on both sides; `spent` is the error that earlier
    phases have used.
    """

    phase: int
    counts: PhaseCounts
    offers: tuple[OfferCount, ...] = ()
    measures: Measures = field(default_factory=Measures)
    watched: tuple[WatchCount, ...] = ()
    carried: Mapping[str, Carried] = field(default_factory=dict)
    spent: Spent = field(default_factory=Spent)
    has_baseline: bool = True
    at_deadline: bool = False


@dataclass(frozen=True)
class GateResult:
    """One gate's word. `sentence` is for operators; `evidence` is JSON and is frozen with the decision.

    One that is `advisory` can fail a phase, but nobody waits for it to pass.
    """

    gate: str
    kind: Kind
    stratum: str
    verdict: Verdict
    sentence: str
    evidence: Mapping[str, object]
    advisory: bool = False

    @property
    def counts(self) -> bool:
        """Whether the phase's verdict depends on it."""
        return self.verdict is Verdict.FAIL or not self.advisory

    def encode(self) -> dict[str, object]:
        """The JSON form, as decisions keep it and the API shows it."""
        return {
            "name": self.gate,
            "kind": self.kind.value,
            "stratum": self.stratum,
            "verdict": self.verdict.value,
            "sentence": self.sentence,
            "advisory": self.advisory,
            "evidence": dict(self.evidence),
        }


@dataclass(frozen=True)
class Judgement:
    """The word of all gates of a phase. `notes` say what was not judged, and why; `allotment` is its error budget."""

    results: tuple[GateResult, ...]
    notes: tuple[str, ...] = ()
    allotment: Allotment | None = None

    @property
    def verdict(self) -> Verdict:
        """FAIL if any gate fails; otherwise the least sure of them. No gates at all is no pass."""
        found = {result.verdict for result in self.results if result.counts}
        for verdict in (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.WAIT):
            if verdict in found:
                return verdict
        return Verdict.PASS if found else Verdict.WAIT

    def having(self, verdict: Verdict) -> tuple[GateResult, ...]:
        """The results with this verdict that count."""
        return tuple(result for result in self.results if result.verdict is verdict and result.counts)

    def encode(self) -> dict[str, object]:
        """The JSON form."""
        return {
            "verdict": self.verdict.value,
            "gates": [result.encode() for result in self.results],
            "notes": list(self.notes),
            "budget": None if self.allotment is None else self.allotment.encode(),
        }
