"""Installs and rollbacks: a census of the devices that the phase treats, by intent to treat: everyone offered counts.

FAIL as soon as the limit is exceeded whatever happens to the rest, or when a bound that is valid at every look says so.
"""

import math
from collections.abc import Sequence
from typing import Final

from fleet.domain.gates.words import percent, saying, undecided
from fleet.domain.policy import RolloutPolicy
from fleet.domain.stats.shares import lower_bound
from fleet.domain.strata import ALL_CLASSES
from fleet.domain.verdicts import GateResult, Kind, OfferCount, PhaseFacts, Verdict

SLACK: Final = 1e-9  # of a device: 0.1 * 30 is not exactly 3
INSTALLS: Final = "install_failures"
ROLLBACKS: Final = "rollbacks"


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
    gates, total = policy.gates, total_of(facts.offers)
    limit = gates.install_max_share
    planned = max(facts.counts.treated, total.offered)
    needed = max(1, math.ceil(gates.min_installed_share * planned - SLACK))
    is_over, bound = _over(facts, total.failures, total, limit, alpha)
    concluded = total.committed + total.failures
    failed = f"{_words(INSTALLS, total.failures, concluded)} (limit {percent(limit)} of {planned:,} devices)"
    installed = f"{total.committed:,} of {planned:,} devices installed it"
    if is_over:
        verdict, words = Verdict.FAIL, failed
    elif total.committed >= needed:
        verdict, words = Verdict.PASS, f"{installed}, {failed}"
    else:
        verdict, words = undecided(facts), f"{installed}, needs {needed:,}; {failed}"
    evidence = {
        **evidence_of(total),
        "planned": planned,
        "needed": needed,
        "max_share": limit,
        "failed_share_at_least": round(bound, 6),
        "alpha": alpha,
        "classes": [evidence_of(item) for item in facts.offers],
    }
    return GateResult(INSTALLS, Kind.OFFERS, ALL_CLASSES, verdict, saying(verdict, words), evidence)


def _rollback(policy: RolloutPolicy, limit: float, facts: PhaseFacts, alpha: float) -> GateResult:
    """Rolled back after the swap. Enough devices must have concluded; that they installed it is the other gate's."""
    total = total_of(facts.offers)
    planned, concluded = max(facts.counts.treated, total.offered), total.committed + total.failures
    needed = max(1, math.ceil(policy.gates.min_installed_share * planned - SLACK))
    is_over, bound = _over(facts, total.rolled_back, total, limit, alpha)
    words = f"{_words(ROLLBACKS, total.rolled_back, concluded)} (limit {percent(limit)} of {planned:,} devices)"
    if is_over:
        verdict = Verdict.FAIL
    elif concluded >= needed:
        verdict = Verdict.PASS
    else:
        verdict, words = undecided(facts), f"{words}; {needed:,} must have concluded"
    evidence = {
        **evidence_of(total),
        "planned": planned,
        "needed": needed,
        "max_share": limit,
        "failed_share_at_least": round(bound, 6),
        "alpha": alpha,
    }
    return GateResult(ROLLBACKS, Kind.OFFERS, ALL_CLASSES, verdict, saying(verdict, words), evidence)


def _over(facts: PhaseFacts, bad: int, total: OfferCount, limit: float, alpha: float) -> tuple[bool, float]:
    """Whether the limit is exceeded for good, and the share that is proven."""
    planned, concluded = max(facts.counts.treated, total.offered), total.committed + total.failures
    bound = lower_bound(bad, concluded, alpha)
    for_sure = bad > limit * planned + SLACK or bound > limit
    at_deadline = facts.at_deadline and bad > limit * concluded + SLACK
    return bool(bad) and (for_sure or at_deadline), bound
