"""Experiments on the demo's fleet, simulated: assigned, measured, decided, promoted."""

from datetime import timedelta
from typing import Any

import pytest

from device_client.wire.bucketing import bucket
from device_client.wire.states import FailureCode
from fleet.apps.assignments import selectors as assignments
from fleet.apps.experiments import conducting, selectors, services
from fleet.apps.experiments.models import Experiment
from fleet.apps.experiments.records import DecisionRecord, ExperimentRecord
from fleet.apps.experiments.snapshots import snapshot
from fleet.apps.registry import services as registry_services
from fleet.apps.rollouts import selectors as rollouts
from fleet.apps.rollouts import services as rollout_services
from fleet.apps.rollouts import starting as rollout_starting
from fleet.apps.telemetry import services as telemetry
from fleet.apps.telemetry.records import Incoming
from fleet.demo import fleet_plan, policies
from fleet.domain.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError
from fleet.domain.experiment import ExperimentSpec
from fleet.domain.experiment_states import ExperimentState
from fleet.domain.facts import RuleState
from fleet.domain.policy import RolloutPolicy
from fleet.domain.rollout_states import RolloutState
from tests.fakes.fleet_simulator import SimulatedDevice
from tests.server.catalogue import MODEL, revoke
from tests.server.story import HOLDER, Story

pytestmark = pytest.mark.django_db

RAMP = {
    "phases": [{"share": 0.25}, {"share": 0.5}, {"share": 1.0}],
    "gates": {"accuracy": {"margin_points": 5}},
    "allow_delta": False,
}
ACCURACY = {"1": 0.8, "2": 0.97, "3": 0.38}
SPEC: dict[str, Any] = {
    "arms": [{"name": "control", "version": "1", "weight": 2}, {"name": "candidate", "version": "2"}],
    "share": 0.75,
    "success": {"accuracy": {"effect_points": 5, "min_labels_per_device": 30}},
    "guardrails": {"errors": {"margin_points": 5}},
    "duration_s": 600,
    "allow_delta": False,
}


@pytest.fixture
def story() -> Story:
    """The fleet with version 1 as its baseline, and two more versions."""
    return Story().settle_on_1("2", "3")


def begin(story: Story, **changes: Any) -> ExperimentRecord:
    drafted = services.create(model=MODEL, spec={**SPEC, **changes}, actor="test", now=story.now)
    return services.start(experiment_id=drafted.id, actor="test", now=story.now, seed=fleet_plan.SEED_BETTER)


def tick(story: Story) -> tuple[DecisionRecord, ...]:
    seen = conducting.tick(now=story.now, holder=HOLDER)
    assert seen.failures == ()
    return seen.decisions


def state_of(experiment: ExperimentRecord) -> ExperimentState:
    return selectors.experiment(experiment.id).state


def decided(story: Story, **changes: Any) -> ExperimentRecord:
    """An experiment that version 2 has won."""
    experiment = begin(story, **changes)
    story.check()
    story.measure(ACCURACY)
    (decision,) = tick(story)
    assert (decision.action, decision.verdict) == ("decide", "ship")
    return selectors.experiment(experiment.id)


# ---------------------------------------------------------------- drafts and plans


def test_create__draft__touches_nobody(story: Story) -> None:
    drafted = services.create(model=MODEL, spec=SPEC, actor="test", now=story.now)
    assert (drafted.state, drafted.rule_id) == (ExperimentState.DRAFT, None)
    story.check()
    assert story.running() == {"1": 16}


def test_create__unknown_version__is_refused(story: Story) -> None:
    with pytest.raises(NotFoundError):
        services.create(
            model=MODEL, spec={**SPEC, "arms": [*SPEC["arms"], {"name": "x", "version": "9"}]}, actor="t", now=story.now
        )


def test_plan__this_fleet__counts_arms_and_says_what_it_can_see(story: Story) -> None:
    drafted = services.create(model=MODEL, spec=SPEC, actor="test", now=story.now)
    found = services.plan(experiment_id=drafted.id, now=story.now, seed=fleet_plan.SEED_BETTER)
    assert (found.population, found.eligible) == (16, 16)
    assert {arm.name: arm.devices for arm in found.arms} == {"candidate": 4, "control": 8}
    assert any("sees" in item.sentence for item in found.sizes)
    assert {item.code for item in found.findings} == {"effect_unseen"}


def test_start__too_few_devices_for_the_arms__is_refused(story: Story) -> None:
    drafted = services.create(model=MODEL, spec={**SPEC, "share": 0.2}, actor="test", now=story.now)
    with pytest.raises(InvalidInputError, match="a comparison needs 4 and 8"):
        services.start(experiment_id=drafted.id, actor="test", now=story.now)
    assert state_of(drafted) is ExperimentState.DRAFT
    assert assignments.running_experiment(MODEL) == ""


def test_start__revoked_version__is_refused(story: Story) -> None:
    drafted = services.create(model=MODEL, spec=SPEC, actor="test", now=story.now)
    revoke(story.releases["2"])
    with pytest.raises(ConflictError, match="published"):
        services.start(experiment_id=drafted.id, actor="test", now=story.now)


def test_start__another_experiment_runs__excludes_it(story: Story) -> None:
    begin(story)
    with pytest.raises(ConflictError) as refused:
        begin(story)
    assert refused.value.code == "experiment_active"


def test_start__a_rollout_is_under_way__excludes_it_and_the_other_way_round(story: Story) -> None:
    rollout = story.start("2", RAMP, fleet_plan.SEED_BETTER)
    with pytest.raises(ConflictError, match=rollout.id):
        begin(story)
    rollout_services.cancel(rollout_id=rollout.id, actor="test", reason="", now=story.now)
    experiment = begin(story)
    with pytest.raises(ConflictError, match=experiment.id) as refused:
        story.start("3", RAMP)
    assert refused.value.code == "experiment_active"


NAMESPACE = MODEL.partition(".")[0]


def asked_for(story: Story, approvals: int) -> ExperimentRecord:
    """A draft of ann's in a namespace that asks for so many approvals."""
    registry_services.set_namespace(name=NAMESPACE, approvals=approvals, actor="root", now=story.now)
    return services.create(model=MODEL, spec=SPEC, actor="ann", identity="user#1", now=story.now)


def start_as(story: Story, drafted: ExperimentRecord, name: str, identity: str, reason: str = "") -> ExperimentRecord:
    return services.start(
        experiment_id=drafted.id,
        actor=name,
        identity=identity,
        reason=reason,
        now=story.now,
        seed=fleet_plan.SEED_BETTER,
    )


def approve(story: Story, drafted: ExperimentRecord, name: str, identity: str, **more: Any) -> ExperimentRecord:
    return services.approve(
        experiment_id=drafted.id, actor=name, identity=identity, reason="read it", now=story.now, **more
    )


def test_start__namespace_asks_for_one_approval__somebody_else_s_start_is_it(story: Story) -> None:
    started = start_as(story, asked_for(story, 1), "bob", "user#2", "looked at it")
    assert (started.state, started.seed) == (ExperimentState.RUNNING, fleet_plan.SEED_BETTER)
    assert [(item.actor, item.reason) for item in started.approvals] == [("bob", "looked at it")]
    assert [item.action for item in reversed(selectors.decisions(started.id))] == [
        "create",
        "submit",
        "approve",
        "start",
    ]


def test_start__namespace_asks_for_two__waits_for_two_others_and_no_device_hears_of_it(story: Story) -> None:
    waiting = start_as(story, asked_for(story, 2), "ann", "user#1")
    assert (waiting.state, waiting.approvals_required) == (ExperimentState.AWAITING_APPROVAL, 2)
    assert waiting.rule_id is None
    with pytest.raises(ForbiddenError, match="expected somebody else than"):
        approve(story, waiting, "ann", "user#1")
    with pytest.raises(ForbiddenError, match="expected a person"):
        approve(story, waiting, "token:ci/1", "")
    assert approve(story, waiting, "bob", "user#2").state is ExperimentState.AWAITING_APPROVAL
    with pytest.raises(ConflictError, match="has not approved yet"):
        approve(story, waiting, "bob", "user#2")
    assert tick(story) == ()
    started = approve(story, waiting, "cy", "user#3")
    assert (started.state, started.seed) == (ExperimentState.RUNNING, fleet_plan.SEED_BETTER)
    with pytest.raises(ConflictError, match="approve"):
        approve(story, waiting, "dan", "user#4")


def test_start__by_a_token_of_nobody__waits_without_an_approval(story: Story) -> None:
    waiting = start_as(story, asked_for(story, 1), "token:ci/1", "")
    assert (waiting.state, waiting.approvals) == (ExperimentState.AWAITING_APPROVAL, ())
    stopped = services.stop(experiment_id=waiting.id, actor="ann", reason="", now=story.now)
    assert stopped.state is ExperimentState.STOPPED


def test_approved__in_quiet_hours_or_behind_a_rollout__begins_by_itself_later(story: Story) -> None:
    hours = f"{story.now - timedelta(hours=1):%H:%M}-{story.now + timedelta(hours=2):%H:%M}"
    quiet = [{"hours": [hours], "time_zone": "UTC"}]
    drafted = asked_for(story, 1)
    registry_services.set_namespace(name=NAMESPACE, quiet_hours=quiet, actor="root", now=story.now)
    waiting = start_as(story, drafted, "bob", "user#2")
    assert (waiting.state, tick(story)) == (ExperimentState.SCHEDULED, ())
    story.pass_time(3 * 3_600)
    assert [item.action for item in tick(story)] == ["start"]
    assert state_of(drafted) is ExperimentState.RUNNING


def test_start__in_quiet_hours__is_scheduled_unless_they_are_overridden(story: Story) -> None:
    drafted = services.create(model=MODEL, spec=SPEC, actor="test", now=story.now)
    hours = f"{story.now - timedelta(hours=1):%H:%M}-{story.now + timedelta(hours=2):%H:%M}"
    quiet = [{"hours": [hours], "time_zone": "UTC"}]
    registry_services.set_namespace(name=NAMESPACE, quiet_hours=quiet, actor="root", now=story.now)
    said: dict[str, Any] = {"experiment_id": drafted.id, "actor": "bob", "now": story.now}
    with pytest.raises(InvalidInputError, match="expected a reason"):
        services.start(**said, override_quiet=True)
    waiting = services.start(**said, seed=fleet_plan.SEED_BETTER)
    assert (waiting.state, tick(story)) == (ExperimentState.SCHEDULED, ())
    assert waiting.because.startswith("starts by itself; quiet hours until")
    services.count_population({"experiment": drafted.id}, story.now)
    assert state_of(drafted) is ExperimentState.SCHEDULED
    services.stop(experiment_id=drafted.id, actor="bob", reason="", now=story.now)
    urgent = services.create(model=MODEL, spec=SPEC, actor="test", now=story.now)
    said["experiment_id"] = urgent.id
    begun = services.start(**said, seed=fleet_plan.SEED_BETTER, override_quiet=True, reason="the camera is blind")
    assert begun.state is ExperimentState.RUNNING


def test_approved__as_an_emergency__waits_for_nothing(story: Story) -> None:
    hours = f"{story.now - timedelta(hours=1):%H:%M}-{story.now + timedelta(hours=2):%H:%M}"
    quiet = [{"hours": [hours], "time_zone": "UTC"}]
    waiting = start_as(story, asked_for(story, 2), "ann", "user#1")
    registry_services.set_namespace(name=NAMESPACE, quiet_hours=quiet, actor="root", now=story.now)
    assert approve(story, waiting, "root", "user#9", is_emergency=True).state is ExperimentState.RUNNING


def test_approved__its_version_is_revoked_meanwhile__is_stopped_and_says_why(story: Story) -> None:
    waiting = start_as(story, asked_for(story, 1), "ann", "user#1")
    revoke(story.releases["2"])
    stopped = approve(story, waiting, "bob", "user#2")
    assert stopped.state is ExperimentState.STOPPED
    assert stopped.because == "not started: expected published versions, got 2 revoked"


def test_start__large_fleet__is_counted_by_a_job_and_begins_then(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout_starting, "COUNTED_AT_ONCE", 3)
    drafted = services.create(model=MODEL, spec=SPEC, actor="test", now=story.now)
    scheduled = start_as(story, drafted, "test", "")
    assert (scheduled.state, scheduled.rule_id) == (ExperimentState.SCHEDULED, None)
    assert tick(story) == ()  # the conductor asks again, and counts nothing itself
    services.count_population({"experiment": drafted.id}, story.now)
    found = selectors.experiment(drafted.id)
    assert (found.state, found.seed) == (ExperimentState.RUNNING, fleet_plan.SEED_BETTER)
    services.count_population({"experiment": drafted.id}, story.now)  # asked for twice, begun once
    assert selectors.experiment(drafted.id).revision == found.revision


def test_start__large_fleet_that_is_too_small_for_the_arms__is_stopped_by_the_job(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout_starting, "COUNTED_AT_ONCE", 3)
    drafted = services.create(model=MODEL, spec={**SPEC, "share": 0.1}, actor="test", now=story.now)
    start_as(story, drafted, "test", "")
    services.count_population({"experiment": drafted.id}, story.now)
    found = selectors.experiment(drafted.id)
    assert found.state is ExperimentState.STOPPED
    assert found.because.startswith("not started: candidate would have")


# ---------------------------------------------------------------- running


def test_running__devices_get_their_arm_and_keep_it__and_explain_names_it(story: Story) -> None:
    experiment = begin(story)
    for _ in range(2):
        story.check()
        assert story.running() == {"1": 12, "2": 4}
    for device in story.devices:
        told = assignments.assignment(device_id=device.device_id, model=MODEL)
        assert told is not None
        place = bucket(experiment.seed, device.device_id)
        arm = "candidate" if place < 250_000 else "control" if place >= 500_000 else ""
        assert told.rollout == (experiment.id if arm else told.rollout)
        assert (f"into its arm {arm}" in told.because) is bool(arm)
    counts = {item.name: (item.planned, item.offered, item.committed) for item in _results(story, experiment).arms}
    assert counts == {"candidate": (4, 4, 4), "control": (8, 8, 8)}


def test_running__device_that_the_population_denies__is_in_no_arm(story: Story) -> None:
    """cam-01 has a bucket of the candidate."""
    experiment = begin(story, population={"deny": {"devices": ["cam-01"]}}, share=1.0)
    story.check()
    told = assignments.assignment(device_id="cam-01", model=MODEL)
    assert told is not None
    assert told.rollout != experiment.id
    assert sum(item.offered for item in _results(story, experiment).arms) == 15
    assert sum(item.planned for item in _results(story, experiment).arms) == 15


def _results(story: Story, experiment: ExperimentRecord) -> Any:
    return selectors.results(experiment.id, now=story.now)


def test_winner__decided_once__evidence_is_frozen(story: Story) -> None:
    experiment = decided(story)
    assert (experiment.state, experiment.winner, experiment.verdict) == (ExperimentState.DECIDED, "candidate", "ship")
    before = _results(story, experiment)
    assert before.frozen
    assert not before.assigned["rejected"]
    (accuracy,) = [item for item in before.comparisons if item["role"] == "success"]
    assert 0 < accuracy["lower"] < 0.17 < accuracy["upper"]
    story.check()
    story.measure({"1": 0.9, "2": 0.1})
    assert tick(story) == ()
    assert _results(story, experiment) == before
    assert story.running() == {"1": 12, "2": 4}
    assert len(selectors.looks(experiment.id)) == 1
    with pytest.raises(ConflictError, match="promote or stop it"):
        services.extend(experiment_id=experiment.id, extra_s=60, actor="t", reason="", now=story.now)


def test_worse_arm__stops__devices_come_back(story: Story) -> None:
    experiment = begin(story, arms=[SPEC["arms"][0], {"name": "candidate", "version": "3"}])
    story.check()
    assert story.running() == {"1": 12, "3": 4}
    story.measure(ACCURACY)
    (decision,) = tick(story)
    assert (decision.action, decision.verdict) == ("stop", "harm")
    assert "points lower than the control's" in decision.sentence
    assert state_of(experiment) is ExperimentState.STOPPED
    story.check()
    assert story.running() == {"1": 16}


def quarters(story: Story) -> str:
    """A seed under which the first and the second quarter of the buckets have four devices each."""
    for number in range(10_000):
        seed = f"quarters-{number}"
        places = [bucket(seed, device.device_id) // 250_000 for device in story.devices]
        if places.count(0) == places.count(1) == 4:
            return seed
    raise AssertionError("expected a seed among ten thousand")


def test_worse_arm_of_several__is_dropped_alone__the_others_go_on_to_a_winner(story: Story) -> None:
    arms = [*SPEC["arms"], {"name": "bad", "version": "3"}]
    drafted = services.create(model=MODEL, spec={**SPEC, "arms": arms, "share": 1.0}, actor="test", now=story.now)
    services.start(experiment_id=drafted.id, actor="test", now=story.now, seed=quarters(story))
    story.check()
    assert story.running() == {"1": 8, "2": 4, "3": 4}
    story.measure({"1": 0.8, "2": 0.8, "3": 0.38})
    (decision,) = tick(story)
    assert (decision.action, decision.verdict) == ("drop", "harm")
    comparisons: Any = decision.evidence["comparisons"]
    assert {item["arm"] for item in comparisons} == {"candidate", "bad"}
    assert state_of(drafted) is ExperimentState.RUNNING
    revoke(story.releases["3"])
    story.check()
    assert story.running() == {"1": 12, "2": 4}
    explained = assignments.assignment(device_id=_in_quarter(story, drafted, 1), model=MODEL)
    assert explained is not None
    assert any("arm bad (version 3)" in step.sentence and "dropped" in step.sentence for step in explained.trace)
    bad = next(item for item in _results(story, drafted).arms if item.name == "bad")
    assert "points lower than the control's" in bad.dropped
    story.measure({"1": 0.8, "2": 0.99}, labels=600)
    (decision,) = tick(story)
    assert (decision.action, decision.verdict, selectors.experiment(drafted.id).winner) == (
        "decide",
        "ship",
        "candidate",
    )


def _in_quarter(story: Story, experiment: ExperimentRecord, quarter: int) -> str:
    seed = selectors.experiment(experiment.id).seed
    return next(item.device_id for item in story.devices if bucket(seed, item.device_id) // 250_000 == quarter)


def test_devices_own_past__is_read_less_what_they_measured_in_the_experiment(story: Story) -> None:
    story.measure(ACCURACY)
    experiment = begin(story)
    story.check()
    story.measure(ACCURACY)
    row = Experiment.objects.get(pk=experiment.id)
    seen = snapshot(row, ExperimentSpec.parse(row.spec), story.now)
    rows = [item for item in seen.facts.rows if item.metric == "accuracy"]
    assert {item.arm for item in rows} == {"control", "candidate"}
    assert {(item.denominator, item.before and item.before.denominator) for item in rows} == {(150, 150)}


def test_arms_version_revoked__stops_at_once(story: Story) -> None:
    experiment = begin(story)
    story.check()
    revoke(story.releases["2"])
    (decision,) = tick(story)
    assert (decision.action, decision.sentence) == ("stop", "stopped: version 2 was revoked")
    assert state_of(experiment) is ExperimentState.STOPPED


def test_devices_of_one_arm_refuse_it__counts_as_harm_by_intent_to_treat(story: Story) -> None:
    experiment = begin(story)

    def fails(device: SimulatedDevice) -> FailureCode | None:
        return FailureCode.DIGEST_MISMATCH if bucket(experiment.seed, device.device_id) < 250_000 else None

    story.check(fails=fails)
    (candidate,) = [item for item in _results(story, experiment).arms if item.name == "candidate"]
    assert (candidate.offered, candidate.failed) == (4, 4)
    (decision,) = tick(story)
    assert decision.verdict == "harm"
    assert "4 of 4 installs failed in candidate" in decision.sentence


def test_time_is_over__no_winner__may_be_extended_and_then_decide(story: Story) -> None:
    experiment = begin(story)
    story.check()
    story.pass_time(601)
    (decision,) = tick(story)
    assert (decision.action, decision.verdict) == ("decide", "inconclusive")
    with pytest.raises(ConflictError, match="expected a winner"):
        services.promote(experiment_id=experiment.id, policy=RAMP, actor="t", reason="", now=story.now)
    again = services.extend(experiment_id=experiment.id, extra_s=300, actor="test", reason="", now=story.now)
    assert (again.state, again.verdict) == (ExperimentState.RUNNING, "")
    story.measure(ACCURACY)
    (decision,) = tick(story)
    assert (decision.action, decision.verdict) == ("decide", "ship")
    actions = [item.action for item in reversed(selectors.decisions(experiment.id))]
    assert actions == ["create", "start", "decide", "extend", "decide"]


def test_stop__by_a_person__keeps_what_it_had_shown(story: Story) -> None:
    experiment = begin(story)
    story.check()
    story.measure(ACCURACY)
    services.stop(experiment_id=experiment.id, actor="ann", reason="enough", now=story.now)
    shown = _results(story, experiment)
    assert (shown.frozen, shown.sentence) == (True, "enough")
    assert shown.comparisons
    story.check()
    assert story.running() == {"1": 16}


def test_word_about_an_older_state__is_refused(story: Story) -> None:
    experiment = begin(story)
    with pytest.raises(ConflictError, match="moved on"):
        services.stop(
            experiment_id=experiment.id, actor="t", reason="", now=story.now, if_revision=experiment.revision - 1
        )
    assert state_of(experiment) is ExperimentState.RUNNING


# ---------------------------------------------------------------- promotion


def test_promote__rollout_from_the_winners_share__nobody_goes_back_and_forth(story: Story) -> None:
    experiment = decided(story)
    winners = {device.device_id for device in story.devices if device.running.version == "2"}
    promoted = services.promote(experiment_id=experiment.id, policy=RAMP, actor="test", reason="", now=story.now)
    assert promoted.state is ExperimentState.PROMOTED
    assert promoted.rollout is not None
    rollout = rollouts.rollout(promoted.rollout)
    assert (rollout.version, rollout.seed, rollout.phases, rollout.share) == ("2", experiment.seed, 2, 0.5)
    story.check()
    assert winners < {device.device_id for device in story.devices if device.running.version == "2"}
    assert story.running() == {"1": 8, "2": 8}
    assert tick(story) == ()
    for _ in range(2):
        story.measure(ACCURACY)
        assert len(story.tick()) == 1
        story.check()
    assert rollouts.rollout(rollout.id).state is RolloutState.COMPLETED
    (released,) = tick(story)
    assert released.action == "release"
    assert assignments.rule(experiment.rule_id or 0).state is RuleState.WITHDRAWN
    story.check()
    assert story.running() == {"2": 16}
    assert tick(story) == ()


def test_promote__winners_rollout_is_reverted__winners_go_back_too(story: Story) -> None:
    experiment = decided(story)
    promoted = services.promote(experiment_id=experiment.id, policy=RAMP, actor="test", reason="", now=story.now)
    story.check()
    rollout_services.revert(rollout_id=promoted.rollout or "", actor="test", reason="", now=story.now)
    assert [item.action for item in tick(story)] == ["release"]
    story.check()
    assert story.running() == {"1": 16}


def test_promote__phases_by_name_and_by_count__are_kept(story: Story) -> None:
    experiment = decided(story)
    (winner, *_) = (device.device_id for device in story.devices if device.running.version == "2")
    phases = [{"devices": [winner]}, {"count": 6}, {"share": 0.2}, {"share": 1.0}]
    promoted = services.promote(
        experiment_id=experiment.id, policy={**RAMP, "phases": phases}, actor="test", reason="", now=story.now
    )
    rollout = rollouts.rollout(promoted.rollout or "")
    kept = RolloutPolicy.parse(rollout.policy).phases
    assert [phase.words for phase in kept] == ["1 named device", "6 devices", "100%"]
    assert rollout.reach == "1 named device"


def test_promote__cut_short_after_the_rollout_had_started__goes_on_with_it(story: Story) -> None:
    experiment = decided(story)
    first = services.promote(experiment_id=experiment.id, policy=RAMP, actor="test", reason="", now=story.now)
    Experiment.objects.filter(pk=experiment.id).update(state="decided", rollout=None, ended_at=None)
    again = services.promote(experiment_id=experiment.id, policy=RAMP, actor="test", reason="", now=story.now)
    assert again.rollout == first.rollout


# ---------------------------------------------------------------- the conductor


def test_tick__who_does_not_lead__does_nothing(story: Story) -> None:
    begin(story)
    story.tick()
    story.pass_time(1)
    assert conducting.tick(now=story.now, holder="another").decisions == ()
    story.check()
    story.measure(ACCURACY)
    assert conducting.tick(now=story.now, holder="another").decisions == ()
    assert len(tick(story)) == 1


def test_tick__one_cannot_be_judged__is_told_and_stays(story: Story) -> None:
    experiment = begin(story)
    Experiment.objects.filter(pk=experiment.id).update(spec={"arms": []})
    (failure,) = conducting.tick(now=story.now, holder=HOLDER).failures
    assert failure.subject == experiment.id
    assert "expected a control" in failure.sentence


@pytest.mark.parametrize("jump_s", [3_600.0, -3_600.0], ids=["ahead", "back"])
def test_tick__clock_jumps_an_hour__no_time_is_over_and_none_is_gained(story: Story, jump_s: float) -> None:
    experiment = begin(story)
    story.check()
    assert tick(story) == ()
    story.pass_time(jump_s)
    seen = conducting.tick(now=story.now, holder=HOLDER, jumped_s=jump_s)
    assert (seen.decisions, seen.failures) == ((), ())
    moved = selectors.experiment(experiment.id)
    assert None not in (experiment.ends_at, moved.ends_at)
    assert moved.ends_at == (experiment.ends_at or story.now) + timedelta(seconds=jump_s)
    story.pass_time(590)
    assert tick(story) == ()
    story.pass_time(11)
    (decision,) = tick(story)
    assert (decision.action, decision.verdict) == ("decide", "inconclusive")


def test_tick__clock_jumps_ahead__winner_waits_for_the_minimum_all_the_same(story: Story) -> None:
    begin(story, min_duration_s=300)
    story.check()
    story.pass_time(3_600)
    assert conducting.tick(now=story.now, holder=HOLDER, jumped_s=3_600.0).decisions == ()
    story.measure(ACCURACY)
    assert tick(story) == ()
    story.pass_time(300)
    (decision,) = tick(story)
    assert (decision.action, decision.verdict) == ("decide", "ship")


# ---------------------------------------------------------------- the demo's own documents


def test_demo__comparison_then_ramp_then_a_slow_version__as_the_story_tells_it(story: Story) -> None:
    """The documents that `make demo` uses, on the simulated fleet: verdict, promotion, and the latency gate."""
    drafted = services.create(model=MODEL, spec=policies.comparison(), actor="test", now=story.now)
    services.start(experiment_id=drafted.id, actor="test", now=story.now, seed=fleet_plan.SEED_BETTER)
    story.pass_time(41)  # nobody builds patches here
    story.check()
    story.pass_time(4)
    story.measure(ACCURACY)
    (decision,) = tick(story)
    assert decision.verdict == "ship"
    promoted = services.promote(
        experiment_id=drafted.id, policy=policies.ramp(), actor="test", reason="", now=story.now
    )
    for _ in range(2):
        story.pass_time(41)
        story.check()
        story.measure(ACCURACY)
        story.pass_time(4)
        story.tick()
    assert rollouts.rollout(promoted.rollout or "").state is RolloutState.COMPLETED
    tick(story)
    story.push("5")
    slow = story.start("5", policies.impatient(), fleet_plan.SEED_WORSE)
    story.pass_time(41)
    story.check()
    assert story.running() == {"2": 12, "5": 4}
    story.pass_time(4)
    for _ in range(4):
        story.pass_time(2)
        windows = [
            Incoming(
                device.device_id,
                device.window(story.now, n=20, latency_ms=30 if device.running.version == "5" else 0.5),
            )
            for device in story.devices
        ]
        telemetry.take_in(messages=windows, now=story.now)
    story.pass_time(1)
    story.tick()
    found = rollouts.rollout(slow.id)
    assert found.state is RolloutState.REVERTING
    assert found.because.startswith("FAIL: ")
    assert "slower than 5 ms" in found.because
