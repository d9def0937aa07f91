"""Rollouts on real services and both databases, from the start to the baseline or back."""

from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from device_client.wire.bucketing import BUCKETS, bucket
from device_client.wire.messages import PlanNotice
from device_client.wire.messages import RuleState as Ask
from device_client.wire.states import FailureCode
from fleet.apps.assignments import selectors as assignments
from fleet.apps.audit import selectors as audit
from fleet.apps.jobs import services as jobs
from fleet.apps.outbox import services as outbox
from fleet.apps.rollouts import leadership, selectors, services, starting
from fleet.apps.rollouts.records import RolloutRecord
from fleet.demo import fleet_plan
from fleet.domain.errors import ConflictError, InvalidInputError, NotFoundError
from fleet.domain.facts import RuleState
from fleet.domain.plan import Level
from fleet.domain.policy import RolloutPolicy
from fleet.domain.rollout_states import RolloutState
from fleet.domain.verdicts import Verdict
from fleet.wiring import server
from tests.server.catalogue import MODEL, Release, later, make_version
from tests.server.story import HOLDER, Story

pytestmark = pytest.mark.django_db

GATES = {
    "accuracy": {"margin_points": 5, "min_labels_per_device": 20},
    "latency": {"slow_ms": 100, "max_slow_share": 0.05},
    "errors": {"max_share": 0.01},
    "install_failures": {"max_share": 0.1},
    "silence": {"grace_s": 30, "max_share": 0.2},
}
RAMP: dict[str, Any] = {
    "phases": [{"share": share, "min_duration_s": 2, "deadline_s": 60} for share in (0.25, 0.5, 1.0)],
    "gates": GATES,
    "allow_delta": False,
}
ALL = {
    "preset": "all-at-once",
    "phases": [{"share": 1.0, "min_duration_s": 1, "deadline_s": 60}],
    "allow_delta": False,
}
ACCURACY = {"1": 0.84, "2": 0.93, "3": 0.4}


@pytest.fixture
def story() -> Story:
    """The fleet with nothing on it."""
    return Story()


@pytest.fixture
def fleet_on_1(story: Story) -> Story:
    """The fleet with version 1 as its baseline."""
    story.push("1")
    story.start("1", ALL, fleet_plan.SEED_INSTALL)
    story.check()
    story.pass_time(2)
    assert [item.action for item in story.tick()] == ["complete"]
    return story


def state_of(rollout: RolloutRecord) -> RolloutState:
    return selectors.rollout(rollout.id).state


def actions(rollout: RolloutRecord) -> list[str]:
    return [item.action for item in reversed(selectors.decisions(rollout.id))]


# ---------------------------------------------------------------- the story


def test_first_install__everyone_takes_it__becomes_the_baseline(fleet_on_1: Story) -> None:
    assert fleet_on_1.running() == {"1": 16}
    (rule,) = assignments.rules(MODEL)
    assert rule.state is RuleState.COMPLETED
    (rollout,) = selectors.rollouts(model=MODEL)
    assert (rollout.state, rollout.against) == (RolloutState.COMPLETED, None)


def test_better_version__ramp__passes_every_phase(fleet_on_1: Story) -> None:
    story = fleet_on_1
    story.push("2")
    rollout = story.start("2", RAMP, fleet_plan.SEED_BETTER)
    treated = []
    for _ in RAMP["phases"]:
        story.check()
        treated.append(story.running().get("2", 0))
        story.measure(ACCURACY)
        assert len(story.tick()) == 1
    assert treated == [4, 8, 16]
    assert state_of(rollout) is RolloutState.COMPLETED
    assert actions(rollout) == ["start", "advance", "advance", "complete"]
    phases = selectors.phases(rollout.id)
    assert [(phase.counts.treated, phase.counts.control) for phase in phases] == [(4, 8), (8, 8), (16, 0)]
    assert {phase.verdict for phase in phases} == {Verdict.PASS}
    last: Any = phases[2].judgement["gates"]
    assert [item["kind"] for item in last if item["name"] == "accuracy"] == ["carried"]


def test_much_worse_version__first_phase__fails_on_accuracy_and_comes_back(fleet_on_1: Story) -> None:
    story = fleet_on_1
    story.push("3")
    rollout = story.start("3", RAMP, fleet_plan.SEED_WORSE)
    story.check()
    assert story.running() == {"1": 12, "3": 4}
    assert story.tick() == ()
    story.measure(ACCURACY)
    (decision,) = story.tick()
    assert (decision.action, decision.verdict, decision.phase) == ("revert", "fail", 0)
    assert decision.sentence.startswith("FAIL: accuracy is ")
    evidence: Any = decision.evidence
    (gate,) = [item for item in evidence["gates"] if item["name"] == "accuracy"]
    assert [row[0] for row in gate["evidence"]["treated"]["rows"]] == ["cam-06", "cam-07", "cam-12", "cam-14"]
    assert story.tick() == ()  # four devices still attest version 3
    story.check()
    assert story.running() == {"1": 16}
    (decision,) = story.tick()
    assert decision.action == "reverted"
    after = selectors.rollout(rollout.id)
    assert after.state is RolloutState.REVERTED
    assert after.because.startswith("FAIL: accuracy")


def test_tampered_version__every_device_refuses__reverts(fleet_on_1: Story) -> None:
    story = fleet_on_1
    story.push("4")
    strict = {**ALL, "gates": {"install_failures": {"max_share": 0.9}}}
    rollout = story.start("4", strict, fleet_plan.SEED_TAMPERED)
    story.check(fails=lambda _: FailureCode.DIGEST_MISMATCH)
    assert story.running() == {"1": 16}
    assert [item.action for item in story.tick()] == ["revert"]
    assert [item.action for item in story.tick()] == ["reverted"]
    assert state_of(rollout) is RolloutState.REVERTED
    counts = assignments.offers_up_to(rule_id=rollout.rule_id or 0, phase=0, now=story.now, grace_s=30)
    assert sum(item.failed for item in counts) == 16


def test_new_rollout__while_devices_are_still_coming_back__may_start(fleet_on_1: Story) -> None:
    """A fix must not wait for the last device of the revert before it."""
    story = fleet_on_1
    for label in ("3", "5"):
        story.push(label)
    bad = story.start("3", ALL)
    story.check()
    services.revert(rollout_id=bad.id, actor="eve", reason="it is wrong", now=story.now)
    assert state_of(bad) is RolloutState.REVERTING
    story.start("5", ALL)
    story.check()
    assert story.running() == {"5": 16}


# ---------------------------------------------------------------- plan and start


def test_plan__dry_run__says_who_gets_what_and_stores_nothing(fleet_on_1: Story) -> None:
    fleet_on_1.push("2")
    found = services.plan(model=MODEL, version="2", policy=RAMP, seed=fleet_plan.SEED_BETTER, now=fleet_on_1.now)
    assert (found.population, found.eligible, found.against) == (16, 16, "1")
    assert found.variants == {"onnx-fp32-any": 12, "onnx-int8-any": 4}
    assert [counts.treated for counts in found.phases] == [4, 8, 16]
    assert found.detectable
    assert len(selectors.rollouts(model=MODEL)) == 1


def test_plan__filter__counts_whom_it_means(fleet_on_1: Story) -> None:
    fleet_on_1.push("2")
    wanted = {**ALL, "population": {"filter": '"int8" in capabilities.precisions'}}
    found = services.plan(model=MODEL, version="2", policy=wanted, now=fleet_on_1.now)
    assert (found.population, found.eligible) == (4, 4)
    with pytest.raises(InvalidInputError, match="column 1: "):
        services.plan(model=MODEL, version="2", policy={**ALL, "population": {"filter": "all"}}, now=fleet_on_1.now)


def test_start__filter__is_kept_in_the_rule(fleet_on_1: Story) -> None:
    fleet_on_1.push("2")
    wanted = {**ALL, "population": {"filter": "capabilities.max_opset >= 17"}}
    started = services.start(model=MODEL, version="2", policy=wanted, actor="test", now=fleet_on_1.now)
    assert assignments.rules(MODEL)[0].filter == "capabilities.max_opset >= 17"
    kept = RolloutPolicy.parse(selectors.rollout(started.id).policy).filter
    assert kept is not None
    assert kept.text == "capabilities.max_opset >= 17"


def test_plan__version_for_other_hardware__names_who_gets_nothing_and_why(fleet_on_1: Story) -> None:
    make_version("7", variants=["onnx-int8-any"])
    found = services.plan(model=MODEL, version="7", policy=ALL, now=fleet_on_1.now)
    assert (found.population, found.eligible) == (16, 9)
    assert [(item.count, item.reason) for item in found.refused] == [
        (7, "onnx-int8-any: is int8, the device takes fp32")
    ]


def test_plan__devices_not_seen_for_long__are_no_population(fleet_on_1: Story) -> None:
    found = services.plan(model=MODEL, version="1", policy=ALL, now=later(8 * 86_400))
    assert found.population == 0
    assert "population_empty" in {item.code for item in found.findings}


def test_start__policy_cannot_work__is_refused_and_leaves_nothing(fleet_on_1: Story) -> None:
    fleet_on_1.push("2")
    impossible = {**RAMP, "phases": [{"share": 0.5}, {"share": 0.25}]}
    with pytest.raises(InvalidInputError) as refused:
        fleet_on_1.start("2", impossible)
    assert refused.value.code == "plan_refused"
    assert "expected rising shares, got 0.5, 0.25" in refused.value.message
    assert len(selectors.rollouts(model=MODEL)) == 1
    assert len(assignments.rules(MODEL)) == 1


def test_start__second_rollout_of_the_model__conflicts_and_leaves_nothing(fleet_on_1: Story) -> None:
    for label in ("2", "3"):
        fleet_on_1.push(label)
    fleet_on_1.start("2", RAMP)
    with pytest.raises(ConflictError) as refused:
        fleet_on_1.start("3", RAMP)
    assert refused.value.code == "rollout_active"
    assert len(assignments.rules(MODEL)) == 2


@pytest.mark.parametrize("state", ["publishing", "revoked"])
def test_start__version_not_published__conflicts(story: Story, state: str) -> None:
    make_version("9", state=state)
    with pytest.raises(ConflictError) as refused:
        story.start("9", ALL)
    assert refused.value.code == "version_not_published"


def test_start__unknown_version__not_found(story: Story) -> None:
    with pytest.raises(NotFoundError):
        story.start("99", ALL)


def test_start__against_another_version_than_the_baseline__conflicts(fleet_on_1: Story) -> None:
    fleet_on_1.push("2")
    with pytest.raises(ConflictError, match="which is version 1, got version 7"):
        services.start(model=MODEL, version="2", policy=RAMP, against="7", actor="t", now=fleet_on_1.now)


def test_start__devices_run_other_weights__asks_for_deltas_from_them(fleet_on_1: Story) -> None:
    fleet_on_1.push("2")
    fleet_on_1.start("2", {**RAMP, "allow_delta": True})
    planned = jobs.claim(kinds=["delta-plan"], owner="w", lease_s=60, now=fleet_on_1.now)
    assert planned is not None
    server.plan_deltas(planned.payload, fleet_on_1.now)
    claimed = [jobs.claim(kinds=["delta"], owner="w", lease_s=60, now=fleet_on_1.now) for _ in range(3)]
    assert [job is not None for job in claimed] == [True, True, False]


def test_start__deltas_not_allowed__asks_for_none(fleet_on_1: Story) -> None:
    fleet_on_1.push("2")
    fleet_on_1.start("2", RAMP)
    assert jobs.claim(kinds=["delta", "delta-plan"], owner="w", lease_s=60, now=fleet_on_1.now) is None


def test_start__no_seed_on_a_small_fleet__draws_one_that_the_gates_can_work_with(fleet_on_1: Story) -> None:
    fleet_on_1.push("2")
    rollout = fleet_on_1.start("2", RAMP)
    counts = [phase.counts for phase in selectors.phases(rollout.id)]
    placed = [bucket(rollout.seed, device.device_id) for device in fleet_on_1.devices]
    assert counts[0].treated == sum(place < BUCKETS // 4 for place in placed) > 0
    quarter, half = (sum(place < share * BUCKETS for place in placed) for share in (0.25, 0.5))
    assert max(quarter, half) >= 4
    assert 16 - half >= 8


def test_start__answer__carries_the_findings(story: Story) -> None:
    story.push("1")
    found = story.start("1", ALL)
    assert "accuracy_unwatched" in {item.code for item in found.findings if item.level is Level.WARNING}


# ---------------------------------------------------------------- a person's word


@pytest.fixture
def ramping(fleet_on_1: Story) -> tuple[Story, RolloutRecord]:
    """Version 2 in its first phase, installed by its four devices."""
    fleet_on_1.push("2")
    rollout = fleet_on_1.start("2", RAMP, fleet_plan.SEED_BETTER)
    fleet_on_1.check()
    return fleet_on_1, rollout


def said(story: Story, rollout: RolloutRecord, **more: Any) -> dict[str, Any]:
    return {"rollout_id": rollout.id, "actor": "eve", "reason": "because", "now": story.now, **more}


def test_hold__then_resume__deadline_counts_anew_and_devices_keep_it(ramping: tuple[Story, RolloutRecord]) -> None:
    story, rollout = ramping
    held = services.hold(**said(story, rollout))
    assert (held.state, held.because) == (RolloutState.HELD, "because")
    story.pass_time(1_000)
    story.check()
    assert story.running() == {"1": 12, "2": 4}
    assert story.tick() == ()
    services.resume(**said(story, rollout))
    assert story.tick() == ()
    story.pass_time(60)
    (decision,) = story.tick()
    assert (decision.action, decision.verdict) == ("hold", "inconclusive")
    assert "needs 4 and 8" in decision.sentence


def test_advance__by_a_person__goes_on_and_keeps_what_the_gates_said(ramping: tuple[Story, RolloutRecord]) -> None:
    story, rollout = ramping
    after = services.advance(**said(story, rollout))
    assert (after.phase, after.share) == (1, 0.5)
    newest = selectors.decisions(rollout.id)[0]
    assert (newest.actor, newest.verdict, newest.sentence) == ("eve", "wait", "because")
    story.check()
    assert story.running() == {"1": 8, "2": 8}


def test_advance__held_rollout__resumes_first(ramping: tuple[Story, RolloutRecord]) -> None:
    story, rollout = ramping
    services.hold(**said(story, rollout))
    assert services.advance(**said(story, rollout)).state is RolloutState.RUNNING
    assert actions(rollout) == ["start", "hold", "resume", "advance"]


def test_advance__after_the_last_phase__completes(ramping: tuple[Story, RolloutRecord]) -> None:
    story, rollout = ramping
    states = [services.advance(**said(story, rollout)).state for _ in range(3)]
    assert states == [RolloutState.RUNNING, RolloutState.RUNNING, RolloutState.COMPLETED]
    story.check()
    assert story.running() == {"2": 16}


def test_cancel__treated_devices__fall_back(ramping: tuple[Story, RolloutRecord]) -> None:
    story, rollout = ramping
    assert services.cancel(**said(story, rollout)).state is RolloutState.CANCELLED
    story.check()
    assert story.running() == {"1": 16}


@pytest.mark.parametrize("word", [services.hold, services.resume, services.advance, services.revert, services.cancel])
def test_any_word__on_a_completed_rollout__conflicts(fleet_on_1: Story, word: Any) -> None:
    (rollout,) = selectors.rollouts(model=MODEL)
    with pytest.raises(ConflictError) as refused:
        word(**said(fleet_on_1, rollout))
    assert refused.value.code == "rollout_state"
    assert selectors.rollout(rollout.id) == rollout


def test_any_word__outdated_revision__conflicts(ramping: tuple[Story, RolloutRecord]) -> None:
    story, rollout = ramping
    with pytest.raises(ConflictError) as refused:
        services.hold(**said(story, rollout, if_revision=rollout.revision + 1))
    assert refused.value.code == "rollout_revision"
    assert services.hold(**said(story, rollout, if_revision=rollout.revision)).state is RolloutState.HELD


def test_any_word__unknown_rollout__not_found(story: Story) -> None:
    for word in (services.hold, services.advance):
        with pytest.raises(NotFoundError):
            word(rollout_id="r-ffffffffffff", actor="eve", reason="", now=story.now)


def test_revert__plan_notice__tells_the_treated_to_stop(ramping: tuple[Story, RolloutRecord]) -> None:
    story, rollout = ramping
    services.revert(**said(story, rollout))
    newest = outbox.claim_batch(limit=100, now=later(99))[-1]
    stops = [item for item in PlanNotice.parse(newest.payload).rules if item.state is Ask.HALT]
    assert [(item.seed, item.ranges[0].end) for item in stops] == [(rollout.seed, BUCKETS // 4)]


def test_every_move__audit_log__names_actor_and_action(ramping: tuple[Story, RolloutRecord]) -> None:
    story, rollout = ramping
    services.hold(**said(story, rollout))
    newest = audit.entries(limit=1)[0]
    assert (newest.actor, newest.action, newest.subject) == ("eve", "rollout.hold", rollout.id)


# ---------------------------------------------------------------- the conductor


def test_revoked_version__emergency_stop__reverts_even_when_held(ramping: tuple[Story, RolloutRecord]) -> None:
    from fleet.apps.registry.models import Version

    story, rollout = ramping
    services.hold(**said(story, rollout))
    Version.objects.filter(label="2").update(state="revoked")
    (decision,) = story.tick()
    assert (decision.action, decision.sentence) == ("revert", "stopped: version 2 was revoked")


def test_tick__two_conductors__one_leads_until_its_lease_ends(ramping: tuple[Story, RolloutRecord]) -> None:
    story, _ = ramping
    assert services.tick(now=story.now, holder=HOLDER).is_leader
    assert not services.tick(now=story.now, holder="conductor-b").is_leader
    story.pass_time(leadership.LEASE_S + 1)
    assert services.tick(now=story.now, holder="conductor-b").is_leader
    assert not services.tick(now=story.now, holder=HOLDER).is_leader


def test_tick__leader_resigns__the_other_leads_at_once(ramping: tuple[Story, RolloutRecord]) -> None:
    story, _ = ramping
    services.tick(now=story.now, holder=HOLDER)
    services.resign(now=story.now, holder=HOLDER)
    assert services.tick(now=story.now, holder="conductor-b").is_leader


def test_lease__holder_was_paused_too_long__its_token_is_refused(ramping: tuple[Story, RolloutRecord]) -> None:
    story, _ = ramping
    old = leadership.acquire(name="conductor", holder=HOLDER, now=story.now)
    story.pass_time(leadership.LEASE_S + 1)
    new = leadership.acquire(name="conductor", holder="conductor-b", now=story.now)
    assert old is not None
    assert new is not None
    assert new > old
    with pytest.raises(ConflictError) as refused:
        leadership.require(name="conductor", token=old, now=story.now)
    assert refused.value.code == "lease_lost"
    leadership.require(name="conductor", token=new, now=story.now)


def test_lease__expired_and_taken_again_by_the_same__gets_a_new_token(story: Story) -> None:
    first = leadership.acquire(name="conductor", holder=HOLDER, now=story.now)
    story.pass_time(leadership.LEASE_S)
    assert leadership.acquire(name="conductor", holder=HOLDER, now=story.now) == (first or 0) + 1


def test_tick__a_person_moved_meanwhile__writes_nothing(
    ramping: tuple[Story, RolloutRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshot is read before the transaction; a revision that moved in between wins."""
    story, rollout = ramping
    story.measure(ACCURACY)
    count = starting.count_at_once

    def held_meanwhile(*args: Any) -> Any:
        services.hold(**said(story, rollout))
        return count(*args)

    monkeypatch.setattr(services, "count_at_once", held_meanwhile)
    seen = services.tick(now=story.now, holder=HOLDER)
    assert seen.decisions == ()
    assert "it has moved on" in seen.failures[0].sentence
    assert state_of(rollout) is RolloutState.HELD
    assert len(selectors.phases(rollout.id)) == 1


def test_tick__one_rollout_cannot_be_judged__the_others_are(ramping: tuple[Story, RolloutRecord]) -> None:
    from fleet.apps.rollouts.models import Rollout

    story, rollout = ramping
    Rollout.objects.filter(pk=rollout.id).update(policy={"phases": "broken"})
    seen = services.tick(now=story.now, holder=HOLDER)
    assert [item.subject for item in seen.failures] == [rollout.id]
    assert "policy.phases" in seen.failures[0].sentence


def test_tick__nothing_to_decide__writes_no_decision(ramping: tuple[Story, RolloutRecord]) -> None:
    story, rollout = ramping
    for _ in range(3):
        assert story.tick() == ()
    assert actions(rollout) == ["start"]


# ---------------------------------------------------------------- what is shown


def test_gates__running_rollout__say_how_they_stand(ramping: tuple[Story, RolloutRecord]) -> None:
    story, rollout = ramping
    story.measure(ACCURACY)
    found = selectors.gates(rollout.id, now=story.now)
    assert not found.frozen
    assert {item["name"] for item in found.gates} == {"accuracy", "latency", "errors", "install_failures", "silence"}
    assert (found.verdict, found.action.value) == (Verdict.PASS, "advance")
    assert (found.counts.treated, found.counts.control) == (4, 8)
    assert found.deadline_at == (rollout.phase_started_at or story.now).replace() + (later(60) - later(0))


def test_gates__ended_rollout__are_frozen(fleet_on_1: Story) -> None:
    (rollout,) = selectors.rollouts(model=MODEL)
    found = selectors.gates(rollout.id, now=later(10_000))
    assert found.frozen
    assert found.verdict is Verdict.PASS
    assert found.gates


def test_rollouts__pages__continue_after_the_last_one(fleet_on_1: Story) -> None:
    fleet_on_1.pass_time(1)
    fleet_on_1.push("2")
    second = fleet_on_1.start("2", RAMP)
    first_page = selectors.rollouts(limit=1)
    assert [item.id for item in first_page] == [second.id]
    assert len(selectors.rollouts(limit=5, after=second.id)) == 1
    assert selectors.count_by_state()["running"] == 1
    assert selectors.recent_decisions(limit=1)[0].rollout == second.id


def test_halt__twice_the_fleet__same_number_of_statements(fleet_on_1: Story) -> None:
    """What an operator does costs a constant number of statements, whatever the fleet's size."""
    from fleet.apps.devices import services as devices

    def statements() -> int:
        release: Release = fleet_on_1.push(str(len(fleet_on_1.releases) + 1))
        rollout = fleet_on_1.start(release.label, ALL)
        with CaptureQueriesContext(
            connection,
        ) as seen:
            services.hold(**said(fleet_on_1, rollout))
        services.cancel(**said(fleet_on_1, rollout))
        return len(seen)

    statements()  # from here on there is a withdrawn rule
    before = statements()
    for number in range(32):
        devices.enrol(device_id=f"more-{number}", hardware_class="edge-std", attributes={}, now=fleet_on_1.now)
    assert statements() == before
