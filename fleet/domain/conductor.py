"""Decides what happens to a rollout next. Reads a snapshot, returns one frozen intent; a service applies it.

Order: a person's emergency stop, which holds what runs, then a revert under way, then a revoked version, then a clock
that has jumped, then failed gates, then a person's hold, then the deadline, then the way forward. A phase goes on when
every gate passes, it has lasted its minimum, and enough devices have installed the
version (which the install gate asks for). The deadline runs from the phase's start, or from the last time that a person
resumed it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from fleet.domain.gate import judge
from fleet.domain.policy import OnFail, RolloutPolicy
from fleet.domain.rollout_states import OFFERING, RolloutState
from fleet.domain.verdicts import Judgement, PhaseFacts, Verdict


class Action(StrEnum):
    """What the conductor can want."""

    WAIT = "wait"
    START = "start"
    ADVANCE = "advance"
    COMPLETE = "complete"
    HOLD = "hold"
    REVERT = "revert"
    REVERT_STEP = "revert_step"
    FINISH_REVERT = "finish_revert"


@dataclass(frozen=True)
class Snapshot:
    """One rollout at one moment. `stop` is why it must be reverted whatever its gates say (a revoked version);
    `frozen` is why nobody may move any device (a person's emergency stop). Both are empty otherwise.

    Before `is_counted` nobody knows how many devices the phase is about, and nothing can be judged by shares of them.
    `still_running` counts the devices that attest the version while a revert is under way. `clock_from` is the start
    of the phase or the last resume; `reverting_since` is set in state reverting, and `revert_step` counts the steps of
    a revert in phases. Until `settles_at` the clock that signs of life are measured by is not to be believed. Until
    `quiet_until` nothing starts or goes on by itself; everything else happens as ever.
    """

    state: RolloutState
    policy: RolloutPolicy
    facts: PhaseFacts
    phase_started_at: datetime
    clock_from: datetime
    is_counted: bool = True
    stop: str = ""
    frozen: str = ""
    still_running: int = 0
    reverting_since: datetime | None = None
    revert_step: int = 1
    settles_at: datetime | None = None
    quiet_until: datetime | None = None


@dataclass(frozen=True)
class Intent:
    """What to do, with the sentence for people and the evidence to freeze with it."""

    action: Action
    sentence: str
    verdict: Verdict | None = None
    evidence: Mapping[str, object] = field(default_factory=dict)
    to_phase: int | None = None
    to_step: int | None = None


NOTHING: Final = Intent(Action.WAIT, "")
UNCOUNTED: Final = "the phase's devices are still being counted"


def decide(snapshot: Snapshot, now: datetime) -> Intent:
    """The one intent for this moment. WAIT changes nothing."""
    if snapshot.frozen:
        action = Action.HOLD if snapshot.state is RolloutState.RUNNING else Action.WAIT
        return Intent(action, snapshot.frozen, evidence={"stop": snapshot.frozen})
    if snapshot.state in OFFERING:
        return _offering(snapshot, now)
    if snapshot.state is RolloutState.REVERTING:
        return _reverting(snapshot, now)
    return _scheduled(snapshot, now) if snapshot.state is RolloutState.SCHEDULED else NOTHING


def _offering(snapshot: Snapshot, now: datetime) -> Intent:
    """Running or held: what stands against it comes first."""
    if snapshot.stop:
        return Intent(Action.REVERT, f"stopped: {snapshot.stop}", evidence={"stop": snapshot.stop})
    if snapshot.settles_at is not None and now < snapshot.settles_at:
        left_s = (snapshot.settles_at - now).total_seconds()
        return Intent(Action.WAIT, f"the server's clock has jumped; devices are heard for {left_s:.0f} s more first")
    if not snapshot.is_counted:
        return _uncounted(snapshot, now)
    judgement = evaluate(snapshot, now)
    evidence = judgement.encode()
    failed = judgement.having(Verdict.FAIL)
    if failed:
        sentence = "; ".join(result.sentence for result in failed)
        if snapshot.policy.on_fail is OnFail.REVERT:
            return Intent(Action.REVERT, sentence, Verdict.FAIL, evidence)
        if snapshot.state is RolloutState.RUNNING:
            return Intent(Action.HOLD, sentence, Verdict.FAIL, evidence)
    if snapshot.state is RolloutState.HELD:
        return Intent(Action.WAIT, "held", judgement.verdict, evidence)
    unsure = judgement.having(Verdict.INCONCLUSIVE)
    if unsure:
        sentence = "; ".join(result.sentence for result in unsure)
        when = "at the deadline: " if _is_late(snapshot, now) else ""
        return Intent(Action.HOLD, f"{when}{sentence}", Verdict.INCONCLUSIVE, evidence)
    return _forward(snapshot, judgement, now)


def evaluate(snapshot: Snapshot, now: datetime) -> Judgement:
    """The gates of the current phase as they stand; a held rollout has no deadline."""
    if not snapshot.is_counted:
        return Judgement((), (UNCOUNTED,))
    return judge(snapshot.policy, replace(snapshot.facts, at_deadline=_is_late(snapshot, now)))


def _is_late(snapshot: Snapshot, now: datetime) -> bool:
    phase = snapshot.policy.phases[snapshot.facts.phase]
    return snapshot.state is RolloutState.RUNNING and now >= snapshot.clock_from + timedelta(seconds=phase.deadline_s)


def _uncounted(snapshot: Snapshot, now: datetime) -> Intent:
    """Wait for the count; a deadline that comes first holds the rollout, because nothing was judged."""
    if _is_late(snapshot, now):
        return Intent(Action.HOLD, f"at the deadline: {UNCOUNTED}", Verdict.INCONCLUSIVE)
    return Intent(Action.WAIT, UNCOUNTED, Verdict.WAIT)


def _forward(snapshot: Snapshot, judgement: Judgement, now: datetime) -> Intent:
    """All gates pass or wait: go on, complete, or wait with the reason."""
    index, phases = snapshot.facts.phase, snapshot.policy.phases
    evidence = judgement.encode()
    waiting = judgement.having(Verdict.WAIT)
    if waiting or judgement.verdict is not Verdict.PASS:
        return Intent(Action.WAIT, "; ".join(result.sentence for result in waiting), Verdict.WAIT, evidence)
    earliest = snapshot.phase_started_at + timedelta(seconds=phases[index].min_duration_s)
    if now < earliest:
        left_s = (earliest - now).total_seconds()
        return Intent(
            Action.WAIT, f"all gates pass; {left_s:.0f} s of the phase's minimum remain", Verdict.WAIT, evidence
        )
    passed = "; ".join(result.sentence for result in judgement.results)
    if snapshot.quiet_until is not None and snapshot.policy.auto_advance:
        return Intent(Action.WAIT, f"all gates pass; {quiet(snapshot.quiet_until)}", Verdict.PASS, evidence)
    opens_at = snapshot.policy.schedule.opens_at(now)
    if opens_at is not None and index + 1 < len(phases):
        sentence = f"all gates pass; by its schedule it goes on at {opens_at.isoformat(timespec='minutes')}"
        return Intent(Action.WAIT, sentence, Verdict.PASS, evidence)
    if not snapshot.policy.auto_advance:
        return Intent(Action.WAIT, f"all gates pass; a person has to advance it: {passed}", Verdict.PASS, evidence)
    if index + 1 < len(phases):
        return Intent(Action.ADVANCE, passed, Verdict.PASS, evidence, to_phase=index + 1)
    return Intent(Action.COMPLETE, passed, Verdict.PASS, evidence)


def _scheduled(snapshot: Snapshot, now: datetime) -> Intent:
    """Begins when its schedule says so; whether it still can is looked at then."""
    opens_at = snapshot.policy.schedule.opens_at(now)
    if opens_at is not None:
        return Intent(Action.WAIT, f"begins at {opens_at.isoformat(timespec='minutes')}")
    if snapshot.quiet_until is not None:
        return Intent(Action.WAIT, quiet(snapshot.quiet_until))
    return Intent(Action.START, "its moment has come")


def quiet(until: datetime) -> str:
    """Why nothing goes on by itself in quiet hours."""
    return f"quiet hours until {until.astimezone(UTC):%Y-%m-%d %H:%M} UTC: it does not go on by itself before"


def _reverting(snapshot: Snapshot, now: datetime) -> Intent:
    """In steps where the policy asks for them, unless the version is revoked. Done when nobody attests the version any
    more, or when waiting for the last ones has taken long enough.
    """
    left, revert, step = snapshot.still_running, snapshot.policy.revert, snapshot.revert_step
    evidence = {"still_running": left}
    if step < revert.steps:
        return _revert_step(snapshot, now)
    if left == 0:
        return Intent(Action.FINISH_REVERT, "no device runs the version any more", evidence=evidence)
    since = snapshot.reverting_since
    patience_s = (revert.steps - 1) * revert.every_s + snapshot.policy.revert_deadline_s
    if since is not None and now >= since + timedelta(seconds=patience_s):
        sentence = f"{left} devices have not come back from the version; they will when they next check in"
        return Intent(Action.FINISH_REVERT, sentence, evidence=evidence)
    return Intent(Action.WAIT, f"{left} devices still run the version", evidence=evidence)


def _revert_step(snapshot: Snapshot, now: datetime) -> Intent:
    """The next share of the treated goes back when its time has come."""
    revert, step, since = snapshot.policy.revert, snapshot.revert_step, snapshot.reverting_since
    evidence = {"still_running": snapshot.still_running}
    if snapshot.stop:
        sentence = f"the rest at once: {snapshot.stop}"
        return Intent(Action.REVERT_STEP, sentence, evidence=evidence, to_step=revert.steps)
    if since is not None and now >= since + timedelta(seconds=step * revert.every_s):
        sentence = f"step {step + 1} of {revert.steps}: {revert.left_after(step + 1):.0%} of the treated still keep it"
        return Intent(Action.REVERT_STEP, sentence, evidence=evidence, to_step=step + 1)
    return Intent(Action.WAIT, f"step {step} of {revert.steps}", evidence=evidence)
