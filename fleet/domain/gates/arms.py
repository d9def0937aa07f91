"""Whether the population is shared out over the arms as it was meant to be: a sample-ratio mismatch.

Arms that are not what was randomised are not comparable, whatever they measure (Fabijan et al., KDD 2019): the phase is
held. Looked at once: the counts were taken when the phase began and do not change.
"""

from typing import Final

from fleet.domain.gates.words import percent
from fleet.domain.policy import RolloutPolicy
from fleet.domain.stats.estimates import Unjudgeable
from fleet.domain.stats.mismatch import mismatch
from fleet.domain.strata import ALL_CLASSES
from fleet.domain.verdicts import GateResult, Kind, PhaseFacts, Verdict

ARMS: Final = "arms"
# One rollout in two thousand may be held for nothing.
MAX_CHANCE: Final = 0.0005


def judge(policy: RolloutPolicy, facts: PhaseFacts) -> GateResult | None:
    """INCONCLUSIVE at once on a mismatch; None where there is nothing to compare or too few devices to tell.

    Names, counts and shares of single classes are no draw from the whole population: such phases are not judged here.
    """
    share = policy.drawn_share(facts.phase)
    if share is None:
        return None
    control = min(policy.control_share, 1 - share)
    treated_now, control_now, population = facts.counts.treated, facts.counts.control, facts.counts.population
    counts = (treated_now, control_now, population - treated_now - control_now)
    found = mismatch(counts, (share, control, max(0.0, round(1 - share - control, 9))))
    if isinstance(found, Unjudgeable):
        return None
    is_off = found.p < MAX_CHANCE
    verdict = Verdict.INCONCLUSIVE if is_off else Verdict.PASS
    meant = f"meant are {percent(share)} and {percent(control)} of {population:,}"
    sentence = (
        f"{verdict.value.upper()}: {treated_now:,} treated and {control_now:,} control devices; {meant}"
        f"{', which chance does not explain: the arms are not comparable' if is_off else ''}"
    )
    evidence = {"p": found.p, "statistic": found.statistic, "df": found.df, "counts": list(counts), "alpha": MAX_CHANCE}
    return GateResult(ARMS, Kind.ARMS, ALL_CLASSES, verdict, sentence, evidence)
