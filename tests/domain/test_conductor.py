from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from fleet.domain.conductor import Action, Snapshot, decide
from fleet.domain.policy import RolloutPolicy
from fleet.domain.rollout_states import CONDUCTED, TRANSITIONS, RolloutEvent, RolloutState
from fleet.domain.verdicts import ClassCount, OfferCount, PhaseCounts, PhaseFacts, Verdict
from tests.domain.releases import NOW

DOCUMENT: dict[str, Any] = {
    "phases": [{"share": share, "min_duration_s": 10, "deadline_s": 60} for share in (0.25, 0.5, 1.0)],
    "revert_deadline_s": 100,
}
POLICY = RolloutPolicy.parse(DOCUMENT)
GOOD = OfferCount("edge-std", offered=4, committed=4)
BAD = OfferCount("edge-std", offered=4, failed=4)
NONE = OfferCount("edge-std")


def after(seconds: float, offers: OfferCount = GOOD, *, policy: RolloutPolicy = POLICY, **more: Any) -> Any:
    """The intent so many seconds into the phase."""
    facts = PhaseFacts(more.pop("phase", 0), PhaseCounts((ClassCount("edge-std", 4, 8, 16),)), (offers,))
    given = {
        "state": RolloutState.RUNNING,
        "policy": policy,
        "facts": facts,
        "phase_started_at": NOW,
        "clock_from": NOW,
    }
    return decide(Snapshot(**{**given, **more}), NOW + timedelta(seconds=seconds))


def test_running__gates_pass_and_time_is_up__advances() -> None:
    intent = after(10)
    assert (intent.action, intent.to_phase, intent.verdict) == (Action.ADVANCE, 1, Verdict.PASS)
    assert intent.evidence["verdict"] == "pass"


def test_running__gates_pass_before_the_minimum__waits() -> None:
    intent = after(9)
    assert intent.action is Action.WAIT
    assert "1 s of the phase's minimum remain" in intent.sentence


def test_running__last_phase_passes__completes() -> None:
    assert after(10, phase=2).action is Action.COMPLETE


def test_running__not_enough_installed__waits_then_holds_at_the_deadline() -> None:
    assert after(59, NONE).action is Action.WAIT
    intent = after(60, NONE)
    assert (intent.action, intent.verdict) == (Action.HOLD, Verdict.INCONCLUSIVE)
    assert intent.sentence.startswith("at the deadline: INCONCLUSIVE: ")


def test_running__resumed_late__deadline_counts_from_there() -> None:
    assert after(100, NONE, clock_from=NOW + timedelta(seconds=90)).action is Action.WAIT
    assert after(150, NONE, clock_from=NOW + timedelta(seconds=90)).action is Action.HOLD


def test_running__gate_fails__reverts_at_once() -> None:
    intent = after(0, BAD)
    assert (intent.action, intent.verdict) == (Action.REVERT, Verdict.FAIL)
    assert intent.sentence == "FAIL: 4 of 4 installs failed (limit 10% of 4 devices)"


def test_running__gate_fails_and_policy_holds__holds() -> None:
    assert after(0, BAD, policy=RolloutPolicy.parse({**DOCUMENT, "on_fail": "hold"})).action is Action.HOLD


def test_running__manual_policy__a_person_advances() -> None:
    intent = after(10, policy=RolloutPolicy.parse({**DOCUMENT, "auto_advance": False}))
    assert (intent.action, intent.verdict) == (Action.WAIT, Verdict.PASS)
    assert "a person has to advance it" in intent.sentence


def test_stop__asked_for__comes_before_every_gate() -> None:
    for state in (RolloutState.RUNNING, RolloutState.HELD):
        intent = after(10, stop="version 2 was revoked", state=state)
        assert (intent.action, intent.sentence) == (Action.REVERT, "stopped: version 2 was revoked")


def test_held__whatever_passes_or_is_late__waits_for_a_person() -> None:
    assert after(10, state=RolloutState.HELD).action is Action.WAIT
    assert after(1_000, NONE, state=RolloutState.HELD).action is Action.WAIT


def test_held__gate_fails__devices_that_run_it_are_brought_back() -> None:
    assert after(10, BAD, state=RolloutState.HELD).action is Action.REVERT


def test_held__gate_fails_and_policy_holds__stays_held() -> None:
    holds = RolloutPolicy.parse({**DOCUMENT, "on_fail": "hold"})
    assert after(10, BAD, state=RolloutState.HELD, policy=holds).action is Action.WAIT


@pytest.mark.parametrize(
    ("left", "seconds", "action"),
    [(0, 0, Action.FINISH_REVERT), (3, 99, Action.WAIT), (3, 100, Action.FINISH_REVERT)],
)
def test_reverting__devices_still_on_it__waits_until_they_are_back_or_the_deadline(
    left: int, seconds: float, action: Action
) -> None:
    intent = after(seconds, state=RolloutState.REVERTING, still_running=left, reverting_since=NOW)
    assert intent.action is action
    assert str(left or "no device") in intent.sentence


@pytest.mark.parametrize(
    "state",
    [state for state in RolloutState if state not in CONDUCTED],
)
def test_any_other_state__nothing_to_conduct__waits(state: RolloutState) -> None:
    assert after(1_000, BAD, state=state, stop="now").action is Action.WAIT


def test_scheduled__its_moment__starts_and_not_before() -> None:
    at_night = RolloutPolicy.parse({**DOCUMENT, "schedule": {"start_at": (NOW + timedelta(seconds=60)).isoformat()}})
    early = after(59, state=RolloutState.SCHEDULED, policy=at_night)
    assert (early.action, early.sentence) == (
        Action.WAIT,
        f"begins at {(NOW + timedelta(seconds=60)):%Y-%m-%dT%H:%M}+00:00",
    )
    # What was stopped meanwhile is refused where it is started, with its reason.
    assert after(60, state=RolloutState.SCHEDULED, policy=at_night, stop="revoked").action is Action.START


def test_running__outside_its_hours__passes_and_waits() -> None:
    later = RolloutPolicy.parse({**DOCUMENT, "schedule": {"hours": ["02:00-03:00"]}})
    intent = after(10, policy=later)
    assert (intent.action, intent.verdict) == (Action.WAIT, Verdict.PASS)
    assert "by its schedule it goes on at" in intent.sentence
    assert after(10, BAD, policy=later).action is Action.REVERT


def test_running__clock_has_jumped__only_a_stop_is_heard() -> None:
    settles: dict[str, Any] = {"settles_at": NOW + timedelta(seconds=100)}
    assert after(99, BAD, **settles).action is Action.WAIT
    assert after(99, BAD, stop="revoked", **settles).action is Action.REVERT
    assert after(100, BAD, **settles).action is Action.REVERT


@pytest.mark.parametrize(
    ("seconds", "step", "stop", "action", "to_step"),
    [
        (59, 1, "", Action.WAIT, None),
        (60, 1, "", Action.REVERT_STEP, 2),
        (60, 2, "", Action.WAIT, None),
        (120, 2, "", Action.REVERT_STEP, 3),
        (1, 1, "revoked", Action.REVERT_STEP, 3),
        (121, 3, "", Action.WAIT, None),
        (220, 3, "", Action.FINISH_REVERT, None),
    ],
)
def test_reverting__in_steps__one_after_the_other(
    seconds: float, step: int, stop: str, action: Action, to_step: int | None
) -> None:
    policy = RolloutPolicy.parse({**DOCUMENT, "revert": {"share_per_step": 0.4, "every_s": 60}})
    intent = after(
        seconds,
        policy=policy,
        state=RolloutState.REVERTING,
        still_running=3,
        reverting_since=NOW,
        revert_step=step,
        stop=stop,
    )
    assert (intent.action, intent.to_step) == (action, to_step)


def test_decide__twice_on_the_same_snapshot__same_intent() -> None:
    facts = PhaseFacts(0, PhaseCounts((ClassCount("edge-std", 4, 8, 16),)), (GOOD,))
    snapshot = Snapshot(RolloutState.RUNNING, POLICY, facts, NOW, NOW)
    later = NOW + timedelta(seconds=30)
    assert decide(snapshot, later) == decide(replace(snapshot), later)


# ---------------------------------------------------------------- every state with everything that can be seen

EVENTS = {
    Action.START: RolloutEvent.START,
    Action.ADVANCE: RolloutEvent.ADVANCE,
    Action.COMPLETE: RolloutEvent.COMPLETE,
    Action.HOLD: RolloutEvent.HOLD,
    Action.REVERT: RolloutEvent.REVERT,
    Action.FINISH_REVERT: RolloutEvent.FINISH_REVERT,
}


@pytest.mark.parametrize("state", list(RolloutState))
@pytest.mark.parametrize("frozen", ["", "vision was stopped by user:anna: smoke"])
@pytest.mark.parametrize("stop", ["", "version 2 was revoked"])
@pytest.mark.parametrize("is_counted", [True, False])
@pytest.mark.parametrize("offers", [GOOD, BAD, NONE])
def test_decide__every_state_and_sight__only_what_the_table_allows(
    state: RolloutState, frozen: str, stop: str, *, is_counted: bool, offers: OfferCount
) -> None:
    for seconds in (0, 30, 60, 1_000):
        for phase in (0, 2):
            for left in (0, 3):
                intent = after(
                    seconds,
                    offers,
                    state=state,
                    frozen=frozen,
                    stop=stop,
                    is_counted=is_counted,
                    phase=phase,
                    still_running=left,
                    reverting_since=NOW,
                )
                assert intent.action is Action.WAIT or (state, EVENTS[intent.action]) in TRANSITIONS
                assert intent.action is not Action.ADVANCE or intent.to_phase == phase + 1


@pytest.mark.parametrize("state", list(RolloutState))
@pytest.mark.parametrize("offers", [GOOD, BAD, NONE])
@pytest.mark.parametrize("stop", ["", "version 2 was revoked"])
def test_decide__stopped_by_a_person__holds_what_runs_and_does_nothing_else(
    state: RolloutState, offers: OfferCount, stop: str
) -> None:
    intent = after(1_000, offers, state=state, stop=stop, frozen="vision was stopped by user:anna: smoke")
    assert intent.action is (Action.HOLD if state is RolloutState.RUNNING else Action.WAIT)
    assert intent.sentence == "vision was stopped by user:anna: smoke"


QUIET_UNTIL = NOW + timedelta(hours=3)


def test_quiet_hours__gates_pass__waits_and_says_until_when() -> None:
    for phase in (0, 2):
        intent = after(10, phase=phase, quiet_until=QUIET_UNTIL)
        assert (intent.action, intent.verdict) == (Action.WAIT, Verdict.PASS)
        assert f"all gates pass; quiet hours until {QUIET_UNTIL:%Y-%m-%d %H:%M} UTC" in intent.sentence


def test_quiet_hours__gate_fails_or_time_is_up__acts_as_ever() -> None:
    assert after(0, BAD, quiet_until=QUIET_UNTIL).action is Action.REVERT
    assert after(60, NONE, quiet_until=QUIET_UNTIL).action is Action.HOLD
    assert after(10, stop="version 2 was revoked", quiet_until=QUIET_UNTIL).action is Action.REVERT
    assert after(10, frozen="stopped", quiet_until=QUIET_UNTIL).action is Action.HOLD


def test_quiet_hours__scheduled__does_not_start() -> None:
    intent = after(10, state=RolloutState.SCHEDULED, quiet_until=QUIET_UNTIL)
    assert (intent.action, "quiet hours until" in intent.sentence) == (Action.WAIT, True)
    assert after(10, state=RolloutState.SCHEDULED).action is Action.START
