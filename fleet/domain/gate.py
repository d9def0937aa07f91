"""Judges the gates of a phase. Pure: the same facts give the same verdicts; nothing is counted or stored here.

Kinds of gate, each with its own kind of certainty, in `gates`: counts of offers and silence, crashes, limits on what the
treated measured, comparisons with the control, the devices' own past where there is no control, and whether the arms are
what was randomised. A gate without evidence waits, and at the deadline is inconclusive. Silence counts as failure at the
deadline. What is judged, and with which error, is fixed by the counts at the phase's start: no measurement moves it.

Costs the same for any number of devices: `measure` has added them up.
"""

from fleet.domain.budget import Allotment, Spent, allot
from fleet.domain.gate_policy import MeasuredGate
from fleet.domain.gates import arms, comparisons, crashes, limits, offers, own_past, silence
from fleet.domain.gates.words import named, saying, undecided
from fleet.domain.policy import RolloutPolicy
from fleet.domain.strata import ALL_CLASSES, Comparison, Part, comparison, has_control, parts
from fleet.domain.verdicts import GateResult, Judgement, Kind, PhaseCounts, PhaseFacts, Verdict


def judge(policy: RolloutPolicy, facts: PhaseFacts) -> Judgement:
    """All gates of the phase."""
    compared = comparison(facts.counts, has_baseline=facts.has_baseline)
    alone = parts(facts.counts, compared)
    budget = _allot(policy, facts, compared, alone)
    results = offers.judge(policy, facts, budget.absolute)
    results.append(silence.judge(policy, facts, budget.absolute))
    if policy.gates.crash is not None:
        results += crashes.judge(policy.gates.crash, facts, budget.absolute)
    results += limits.judge(policy, facts, alone, budget.absolute)
    notes: list[str] = []
    for gate in policy.gates.comparative:
        if compared.strata:
            results += comparisons.judge(gate, policy, facts, compared.strata, budget.comparative)
        else:
            found = _without_control(gate, policy, facts, compared.reason, budget.comparative)
            results += found
            if not found:
                notes.append(f"{named(gate, policy)} is not compared with a control in this phase: {compared.reason}")
    if policy.gates.comparative:
        notes += compared.notes
        shared_out = arms.judge(policy, facts) if compared.strata else None
        results += [] if shared_out is None else [shared_out]
    return Judgement(tuple(results), tuple(notes), budget)


def budget(policy: RolloutPolicy, phase: int, counts: PhaseCounts, *, has_baseline: bool) -> Allotment:
    """What a phase with these counts may use, if those before it have used what they could: for plans."""
    facts = PhaseFacts(phase, counts, has_baseline=has_baseline)
    compared = comparison(counts, has_baseline=has_baseline)
    made, bounds = _tests(policy, facts, compared, parts(counts, compared))
    spent = Spent()
    for earlier in range(phase):
        used = allot(policy.alpha, phase=earlier, phases=len(policy.phases), spent=spent, comparisons=1, limits=1)
        spent = spent.plus(used.spent)
    return allot(policy.alpha, phase=phase, phases=len(policy.phases), spent=spent, comparisons=made, limits=bounds)


def _allot(policy: RolloutPolicy, facts: PhaseFacts, compared: Comparison, alone: tuple[Part, ...]) -> Allotment:
    made, bounds = _tests(policy, facts, compared, alone)
    return allot(
        policy.alpha,
        phase=facts.phase,
        phases=len(policy.phases),
        spent=facts.spent,
        comparisons=made,
        limits=bounds,
    )


def _tests(policy: RolloutPolicy, facts: PhaseFacts, compared: Comparison, alone: tuple[Part, ...]) -> tuple[int, int]:
    """How many compared gates and how many limits can fail this phase by chance."""
    classes = len(facts.counts.classes)
    bounds = offers.tests(policy, classes) + silence.TESTS + limits.tests(policy, alone)
    bounds += crashes.tests(classes) if policy.gates.crash is not None else 0
    return (len(policy.gates.comparative) if compared.strata or facts.has_baseline else 0), bounds


def _without_control(
    gate: MeasuredGate, policy: RolloutPolicy, facts: PhaseFacts, reason: str, alpha: float
) -> list[GateResult]:
    """The verdict of the last comparison, and the devices' own past; nothing where a later phase will compare."""
    carried = facts.carried.get(gate.name)
    devices = facts.counts.population
    later = any(has_control(phase.share, policy.control_share, devices) for phase in policy.phases[facts.phase + 1 :])
    if not facts.has_baseline:
        return []
    past = own_past.judge(gate, policy, facts, alpha, is_second=carried is not None or later)
    results = [] if past is None else [past]
    if carried is not None:
        verdict = carried.verdict if carried.verdict is Verdict.PASS else undecided(facts)
        said = carried.sentence.removeprefix(saying(Verdict.PASS, ""))
        words = f"{named(gate, policy)} carried over from phase {carried.phase + 1}: {said}"
        evidence: dict[str, object] = {"from_phase": carried.phase, "reason": reason}
        results.append(GateResult(gate.name, Kind.CARRIED, ALL_CLASSES, verdict, saying(verdict, words), evidence))
    elif not later and past is None:
        verdict = undecided(facts)
        words = f"{named(gate, policy)} was never compared with a control: {reason}"
        results.append(
            GateResult(gate.name, Kind.CARRIED, ALL_CLASSES, verdict, saying(verdict, words), {"reason": reason})
        )
    return results
