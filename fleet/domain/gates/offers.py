"""Installs and rollbacks: a census of the devices that the phase treats, by intent to treat: everyone offered counts.

FAIL when what went wrong exceeds the limit of all planned devices and is more than chance would bring, or when a bound that
is valid at every look proves the limit exceeded. What merely exceeds it is INCONCLUSIVE at once, so that the rollout holds and
a person decides: one device of eight is more than a tenth, and where one install in a hundred fails by itself, one such phase
in thirteen would revert a version that changes nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fleet.domain.gates.words import percent, saying, undecided
from fleet.domain.policy import RolloutPolicy
from fleet.domain.stats.shares import at_least, lower_bound
from fleet.domain.strata import ALL_CLASSES
from fleet.domain.verdicts import GateResult, Kind, OfferCount, PhaseFacts, Verdict

SLACK: Final = 1e-9  # of a device: 0.1 * 30 is not exactly 3
INSTALLS: Final = "install_failures"
ROLLBACKS: Final = "rollbacks"
# Of the limit: a version that goes wrong this often is one that the operator means to ship.
_HARMLESS: Final = 0.25


def tests(policy: RolloutPolicy, classes: int) -> int:
    """How many bounds these gates read in a phase."""
    return (1 + (classes if classes > 1 else 0)) * (1 if policy.gates.rollback_max_share is None else 2)


def judge(policy: RolloutPolicy, facts: PhaseFacts, alpha: float) -> list[GateResult]:
    """Over all classes, then each class that alone proves to be over a limit."""
    results = [_install(policy, facts, alpha)]
    results += _by_class(facts, INSTALLS, policy.gates.install_max_share, alpha)
    limit = policy.gates.rollback_max_share
    if limit is not None:
        results.append(_rollback(policy, limit, facts, alpha))
        results += _by_class(facts, ROLLBACKS, limit, alpha)
    return results


def proves(bad: int, *, concluded: int, among: int, limit: float, alpha: float) -> bool:
    """Whether so many of `concluded` devices, `among` those that are waited for, fail a phase. One more never proves less."""
    is_over = bad > limit * among + SLACK
    return lower_bound(bad, concluded, alpha) > limit or (is_over and at_least(bad, among, limit * _HARMLESS) <= alpha)


def total_of(offers: Sequence[OfferCount]) -> OfferCount:
    """Over all classes."""
    return OfferCount(
        hardware_class=ALL_CLASSES,
        offered=sum(item.offered for item in offers),
        committed=sum(item.committed for item in offers),
        failed=sum(item.failed for item in offers),
        rolled_back=sum(item.rolled_back for item in offers),
        silent=sum(item.silent for item in offers),
    )


def evidence_of(item: OfferCount) -> dict[str, object]:
    """The counts as JSON."""
    return {
        "hardware_class": item.hardware_class,
        "offered": item.offered,
        "committed": item.committed,
        "failed": item.failed,
        "rolled_back": item.rolled_back,
        "silent": item.silent,
    }


def _bad(gate: str, item: OfferCount) -> int:
    return item.failures if gate == INSTALLS else item.rolled_back


def _words(gate: str, bad: int, concluded: int) -> str:
    what = "installs failed" if gate == INSTALLS else "devices went back after the swap"
    return f"{bad:,} of {concluded:,} {what}"


def _by_class(facts: PhaseFacts, gate: str, limit: float, alpha: float) -> list[GateResult]:
    found: list[GateResult] = []
    for item in facts.offers if len(facts.offers) > 1 else ():
        bad, concluded = _bad(gate, item), item.committed + item.failures
        if concluded and lower_bound(bad, concluded, alpha) > limit:
            sentence = saying(
                Verdict.FAIL, f"{_words(gate, bad, concluded)} on {item.hardware_class} (limit {percent(limit)})"
            )
            evidence = {**evidence_of(item), "max_share": limit, "alpha": alpha}
            found.append(GateResult(gate, Kind.OFFERS, item.hardware_class, Verdict.FAIL, sentence, evidence))
    return found


def _install(policy: RolloutPolicy, facts: PhaseFacts, alpha: float) -> GateResult:
    census = _census(INSTALLS, policy, policy.gates.install_max_share, facts, alpha)
    installed = f"{census.total.committed:,} of {census.planned:,} devices installed it"
    if census.excess is not None:
        verdict, words = census.excess
    elif census.total.committed >= census.needed:
        verdict, words = Verdict.PASS, f"{installed}, {census.words}"
    else:
        verdict, words = undecided(facts), f"{installed}, needs {census.needed:,}; {census.words}"
    return census.result(verdict, words, classes=[evidence_of(item) for item in facts.offers])


def _rollback(policy: RolloutPolicy, limit: float, facts: PhaseFacts, alpha: float) -> GateResult:
    """Rolled back after the swap. Enough devices must have concluded; that they installed it is the other gate's."""
    census = _census(ROLLBACKS, policy, limit, facts, alpha)
    if census.excess is not None:
        return census.result(*census.excess)
    if census.concluded >= census.needed:
        return census.result(Verdict.PASS, census.words)
    return census.result(undecided(facts), f"{census.words}; {census.needed:,} must have concluded")


@dataclass(frozen=True)
class _Census:
    """A gate's count over all classes: so many of `concluded` went wrong, of `planned` devices, of which `needed` must
    have come so far; `bound` is the share that is proven. Over the limit are these devices; that the version is, is proven.
    """

    gate: str
    total: OfferCount
    planned: int
    needed: int
    limit: float
    alpha: float
    is_over: bool
    is_proven: bool
    bound: float

    @property
    def concluded(self) -> int:
        """The devices of which it is known how it ended."""
        return self.total.committed + self.total.failures

    @property
    def words(self) -> str:
        """What went wrong, and how much may."""
        bad = _words(self.gate, _bad(self.gate, self.total), self.concluded)
        return f"{bad} (limit {percent(self.limit)} of {self.planned:,} devices)"

    @property
    def excess(self) -> tuple[Verdict, str] | None:
        """The verdict on what exceeds the limit, and its words; None within it."""
        if self.is_proven:
            return Verdict.FAIL, self.words
        return (Verdict.INCONCLUSIVE, f"{self.words}, which on so few devices may be chance") if self.is_over else None

    def result(self, verdict: Verdict, words: str, **more: object) -> GateResult:
        """The verdict with its evidence."""
        evidence = {
            **evidence_of(self.total),
            "planned": self.planned,
            "needed": self.needed,
            "max_share": self.limit,
            "failed_share_at_least": round(self.bound, 6),
            "alpha": self.alpha,
            **more,
        }
        return GateResult(self.gate, Kind.OFFERS, ALL_CLASSES, verdict, saying(verdict, words), evidence)


def _census(gate: str, policy: RolloutPolicy, limit: float, facts: PhaseFacts, alpha: float) -> _Census:
    """The limit is exceeded for good when what went wrong is over it of all planned devices."""
    total = total_of(facts.offers)
    planned = max(facts.counts.treated, total.offered)
    bad, concluded = _bad(gate, total), total.committed + total.failures
    bound = lower_bound(bad, concluded, alpha)
    # At the deadline nobody else is waited for.
    among = concluded if facts.at_deadline else planned
    is_over = bad > 0 and bad > limit * among + SLACK
    return _Census(
        gate=gate,
        total=total,
        planned=planned,
        needed=max(1, math.ceil(policy.gates.min_installed_share * planned - SLACK)),
        limit=limit,
        alpha=alpha,
        is_over=is_over,
        is_proven=proves(bad, concluded=concluded, among=among, limit=limit, alpha=alpha),
        bound=bound,
    )
