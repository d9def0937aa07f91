"""The update machine, pure: every state with every event, and the properties that hold along every path."""

from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_client.core import machine
from device_client.core.deployment import (
    Activate,
    Activated,
    Adopt,
    Assigned,
    Collect,
    Deny,
    Deployment,
    Event,
    Failed,
    Fetch,
    Fetched,
    FetchPlanned,
    PreflightPassed,
    Proceeded,
    Recalled,
    Refused,
    Report,
    Restarted,
    RollBack,
    RolledBack,
    SelfTestPassed,
    Steadied,
    StopWork,
    Survived,
    Target,
    Verified,
    Watch,
    Withdrawn,
)
from device_client.core.errors import UnexpectedEventError
from device_client.wire.director import Arm
from device_client.wire.states import FailureCode, Transport, UpdateState

OLD, NEW, OTHER = "a" * 64, "b" * 64, "c" * 64
S = UpdateState


def target(digest: str, rollout: str = "r-1", revision: int = 1) -> Target:
    return Target(
        version=digest[0],
        digest=digest,
        path=f"models/vision.digits/{digest[0]}/onnx-fp32-any.json",
        length=10,
        rollout=rollout,
        revision=revision,
        arm=Arm.TREATED,
        phase=0,
        reason="a rule",
    )


def deployment(state: UpdateState) -> Deployment:
    return Deployment("vision.digits", state, serial=3, target=target(NEW), origin=OLD, proven=OLD, began_at=50)


EVENTS: dict[type, Event] = {
    Assigned: Assigned(target(OTHER), OLD),
    Refused: Refused(target(OTHER), FailureCode.UNTRUSTED, "not signed", deny=True),
    Withdrawn: Withdrawn("no rule"),
    Proceeded: Proceeded(),
    PreflightPassed: PreflightPassed(in_slot=False),
    FetchPlanned: FetchPlanned(Transport.FULL, 100, 10),
    Fetched: Fetched(Transport.FULL, 100, 100),
    Verified: Verified(),
    SelfTestPassed: SelfTestPassed(),
    Activated: Activated(),
    Survived: Survived(),
    Failed: Failed(FailureCode.SELF_TEST, "wrong", deny=True),
    RolledBack: RolledBack(OLD),
    Recalled: Recalled("a person"),
    Restarted: Restarted(clean=False, has_earlier=True),
    Steadied: Steadied(),
}

# The whole table as an outsider reads it: where each pair leads. What is not here raises.
LEADS: dict[tuple[UpdateState, type], UpdateState] = {
    (S.ASSIGNED, Proceeded): S.PREFLIGHT,
    (S.PREFLIGHT, PreflightPassed): S.DOWNLOADING,
    (S.DOWNLOADING, FetchPlanned): S.DOWNLOADING,
    (S.DOWNLOADING, Fetched): S.VERIFYING,
    (S.VERIFYING, Verified): S.STAGED,
    (S.STAGED, Proceeded): S.SELF_TESTING,
    (S.SELF_TESTING, SelfTestPassed): S.ACTIVATING,
    (S.ACTIVATING, Activated): S.PROBATION,
    (S.PROBATION, Survived): S.COMMITTED,
    (S.ROLLING_BACK, RolledBack): S.ROLLED_BACK,
    (S.PROBATION, Recalled): S.ROLLING_BACK,
    (S.COMMITTED, Recalled): S.ROLLING_BACK,
    (S.COMMITTED, Failed): S.ROLLING_BACK,
    (S.COMMITTED, Steadied): S.COMMITTED,
}
for _state in (S.ASSIGNED, S.PREFLIGHT, S.DOWNLOADING, S.VERIFYING, S.STAGED, S.SELF_TESTING):
    LEADS |= {
        (_state, Failed): S.ROLLING_BACK,
        (_state, Assigned): S.ASSIGNED,
        (_state, Refused): S.ROLLED_BACK,
        (_state, Withdrawn): S.HALTED,
        (_state, Restarted): _state,
    }
for _state in (S.ACTIVATING, S.PROBATION):
    LEADS |= {(_state, Failed): S.ROLLING_BACK, (_state, Restarted): _state, (_state, Refused): _state}
LEADS |= {
    (S.PROBATION, Assigned): S.ASSIGNED,
    (S.ACTIVATING, Assigned): S.ACTIVATING,
    (S.ROLLING_BACK, Assigned): S.ROLLING_BACK,
    (S.ROLLING_BACK, Refused): S.ROLLING_BACK,
    (S.ROLLING_BACK, Restarted): S.ROLLING_BACK,
    (S.ACTIVATING, Withdrawn): S.ACTIVATING,
    (S.PROBATION, Withdrawn): S.PROBATION,
    (S.ROLLING_BACK, Withdrawn): S.ROLLING_BACK,
}
for _state in (S.IDLE, S.COMMITTED, S.ROLLED_BACK, S.SUPERSEDED, S.HALTED):
    LEADS |= {
        (_state, Assigned): S.ASSIGNED,
        (_state, Refused): S.ROLLED_BACK,
        (_state, Withdrawn): _state,
        (_state, Restarted): _state,
    }


def test_events__all_of_them__are_in_this_test() -> None:
    assert set(EVENTS) == set(get_args(Event))


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("state", UpdateState, ids=lambda state: state.value)
def test_step__every_state_with_every_event__as_the_table_says(state: UpdateState, kind: type) -> None:
    before = deployment(state)
    if (state, kind) in LEADS:
        after, _ = machine.step(before, EVENTS[kind], 100)
        assert after.state is LEADS[state, kind]
    else:
        with pytest.raises(UnexpectedEventError, match=state.value):
            machine.step(before, EVENTS[kind], 100)


def test_assigned__running_digest_that_was_proven__committed_at_once() -> None:
    before = Deployment("vision.digits", S.ROLLED_BACK, target=target(NEW), origin=OLD, proven=OLD)
    after, effects = machine.step(before, Assigned(target(OLD, "", 5), OLD), 100)
    assert after.state is S.COMMITTED
    assert effects == (Report(after, S.COMMITTED), Adopt())


def test_assigned__running_digest_that_was_never_proven__on_probation() -> None:
    after, effects = machine.step(Deployment("vision.digits"), Assigned(target(OLD), OLD), 100)
    assert after.state is S.PROBATION
    assert effects[-1] == Watch()


def test_assigned__same_again__says_nothing_new() -> None:
    before = deployment(S.COMMITTED)
    _, effects = machine.step(before, Assigned(target(NEW), NEW), 100)
    assert effects == (Adopt(),)


def test_assigned__same_digest_while_downloading__goes_on_with_fresh_tickets() -> None:
    again = target(NEW, revision=9)
    after, effects = machine.step(deployment(S.DOWNLOADING), Assigned(again, OLD), 100)
    assert (after.target, after.serial, effects) == (again, 3, (Fetch(),))


def test_assigned__back_to_what_runs_while_downloading__halted_and_committed() -> None:
    after, effects = machine.step(deployment(S.DOWNLOADING), Assigned(target(OLD, ""), OLD), 100)
    assert after.state is S.COMMITTED
    reported = [effect.state for effect in effects if isinstance(effect, Report)]
    assert reported == [S.HALTED, S.COMMITTED]
    assert StopWork(NEW) in effects


@pytest.mark.parametrize(
    "event", [Assigned(target(OLD), OLD, is_later=True), Withdrawn("held", is_later=True)], ids=["baseline", "nothing"]
)
def test_later__while_downloading__halted_and_what_is_staged_stays_until_it_is_final(
    event: Assigned | Withdrawn,
) -> None:
    halted, effects = machine.step(deployment(S.DOWNLOADING), event, 100)
    assert (halted.state, halted.aim.digest) == (S.HALTED, NEW)
    assert effects == (Report(halted, S.HALTED), StopWork(NEW, keeps=True))
    assert machine.step(halted, event, 101) == (halted, ())
    _, effects = machine.step(halted, replace(event, is_later=False), 102)
    assert Collect() in effects
    again, _ = machine.step(halted, Assigned(target(NEW), OLD), 103)
    assert (again.state, again.aim.digest) == (S.ASSIGNED, NEW)


def test_preflight__slot_is_there__nothing_is_fetched() -> None:
    after, _ = machine.step(deployment(S.PREFLIGHT), PreflightPassed(in_slot=True), 100)
    assert (after.state, after.transport) == (S.STAGED, Transport.NONE)


@pytest.mark.parametrize("state", [*machine.COUNTED, S.COMMITTED], ids=lambda state: state.value)
def test_restarted__too_often__rolls_back_as_a_crash_loop(state: UpdateState) -> None:
    now = deployment(state)
    for _ in range(machine.MAX_RESTARTS):
        now, effects = machine.step(now, Restarted(clean=False, has_earlier=True), 100)
        assert effects == (() if state is S.COMMITTED else (machine.RESUME[state],))
    now, effects = machine.step(now, Restarted(clean=False, has_earlier=True), 100)
    assert (now.state, now.failure, now.deny, effects) == (S.ROLLING_BACK, FailureCode.CRASH_LOOP, True, (RollBack(),))


def test_restarted__in_an_orderly_way_or_while_downloading__never_counts() -> None:
    for state, clean in ((S.PROBATION, True), (S.DOWNLOADING, False)):
        now = deployment(state)
        for _ in range(20):
            now, _ = machine.step(now, Restarted(clean=clean, has_earlier=True), 100)
        assert now.restarts == 0


def test_restarted__committed_and_ran_steadily_between__never_a_crash_loop() -> None:
    now = replace(deployment(S.PROBATION), restarts=machine.MAX_RESTARTS)
    now, _ = machine.step(now, Survived(), 100)
    for _ in range(20):
        now, _ = machine.step(now, Restarted(clean=False, has_earlier=True), 100)
        now, _ = machine.step(now, Steadied(), 100)
    assert (now.state, now.restarts) == (S.COMMITTED, 0)


def test_restarted__committed_and_nothing_to_go_back_to__stays() -> None:
    now = deployment(S.COMMITTED)
    for _ in range(20):
        now, effects = machine.step(now, Restarted(clean=False, has_earlier=False), 100)
        assert (now.state, effects) == (S.COMMITTED, ())


def test_rolled_back__failure_that_denies__denied_with_the_report() -> None:
    now, _ = machine.step(deployment(S.PROBATION), EVENTS[Failed], 100)
    now, effects = machine.step(now, RolledBack(OLD), 100)
    assert Deny(NEW, "r-1") in effects
    passing, _ = machine.step(deployment(S.DOWNLOADING), Failed(FailureCode.DOWNLOAD, "slow", deny=False), 100)
    _, effects = machine.step(passing, RolledBack(OLD), 100)
    assert not any(isinstance(effect, Deny) for effect in effects)


def test_rolled_back__stored_state_was_unreadable__idle_without_a_report() -> None:
    lost = Deployment("vision.digits", S.ROLLING_BACK)
    after, effects = machine.step(lost, RolledBack(OLD), 100)
    assert after.state is S.IDLE
    assert not any(isinstance(effect, Report) for effect in effects)


@given(st.lists(st.sampled_from(sorted(EVENTS, key=lambda kind: kind.__name__)), max_size=40))
def test_step__any_sequence_of_events__keeps_its_promises(kinds: list[type]) -> None:
    """Only an activation leads to probation, only probation or proof to committed, and serials never go back."""
    now = Deployment("vision.digits")
    for kind in kinds:
        try:
            after, effects = machine.step(now, EVENTS[kind], 100)
        except UnexpectedEventError:
            continue
        assert after.serial >= now.serial
        if after.state is S.PROBATION and now.state is not S.PROBATION:
            assert kind is Activated
        if after.state is S.COMMITTED and now.state is not S.COMMITTED:
            assert kind is Survived
        if now.state not in machine.RESTING and after.state in machine.RESTING:
            assert any(isinstance(effect, Report) for effect in effects) or now.target is None
        assert Deployment.parse(after.encode()) == after, "what is journalled is what is meant"
        now = after


def test_activate__performed__is_the_only_effect_that_swaps() -> None:
    _, effects = machine.step(deployment(S.SELF_TESTING), SelfTestPassed(), 100)
    assert effects == (Activate(),)
