"""How rollouts are planned, begin, share a model, go back in steps and outlive a clock that jumps. Both databases."""

from datetime import timedelta
from typing import Any

import pytest

from device_client.wire.bucketing import bucket
from fleet.apps.assignments import selectors as assignments
from fleet.apps.devices import services as devices
from fleet.apps.jobs import services as jobs
from fleet.apps.rollouts import selectors, services, starting
from fleet.domain.errors import ConflictError, InvalidInputError
from fleet.domain.facts import RuleState
from fleet.domain.rollout_states import RolloutState
from tests.server.catalogue import MODEL, revoke
from tests.server.story import HOLDER, Story
from tests.server.test_rollouts import state_of

pytestmark = pytest.mark.django_db

LIMITS = {"install_failures": {"max_share": 0.5}, "silence": {"grace_s": 30, "max_share": 0.5}}


@pytest.fixture
def fleet_on_1() -> Story:
    """The fleet with version 1 as its baseline, and 2 and 3 pushed."""
    return Story().settle_on_1("2", "3")


def phases(*said: dict[str, Any], **more: Any) -> dict[str, Any]:
    timed = [{"min_duration_s": 1, "deadline_s": 600, **item} for item in said]
    return {"phases": timed, "gates": LIMITS, "allow_delta": False, "control_share": 0.0, **more}


def by_version(story: Story, version: str) -> set[str]:
    return {device.device_id for device in story.devices if device.running.version == version}


# ---------------------------------------------------------------- names, counts, classes


def test_canaries__then_a_count_then_a_class_then_all__each_phase_reaches_its_own(fleet_on_1: Story) -> None:
    story = fleet_on_1
    names = [device.device_id for device in story.devices[:2]]
    policy = phases(
        {"devices": names},
        {"count": 6},
        {"share": 1, "hardware_classes": [story.devices[-1].hardware_class]},
        {"share": 1},
    )
    story.start("2", policy)
    reached = []
    for _ in range(4):
        story.check()
        reached.append(by_version(story, "2"))
        story.pass_time(2)
        story.tick()
    assert reached[0] == set(names)
    assert len(reached[1]) == 6
    assert reached[0] < reached[1] < reached[2] < reached[3]
    last_class = {d.device_id for d in story.devices if d.hardware_class == story.devices[-1].hardware_class}
    assert reached[2] == reached[1] | last_class
    (rollout,) = selectors.rollouts(model=MODEL, version="2")
    assert rollout.state is RolloutState.COMPLETED


def test_plan__every_device_that_gets_nothing__has_its_reason(fleet_on_1: Story) -> None:
    story = fleet_on_1
    quiet, banned = story.devices[0].device_id, story.devices[1].device_id
    devices.set_state(device_id=quiet, state="revoked", now=story.now)
    found = services.plan(
        model=MODEL,
        version="2",
        policy=phases({"share": 1}, population={"deny": {"devices": [banned]}, "filter": "capabilities.max_opset > 3"}),
        now=story.now,
    )
    assert (found.population, found.eligible) == (14, 14)
    assert {item.reason: item.examples for item in found.outside} == {
        "revoked or in quarantine": (quiet,),
        "on the deny-list": (banned,),
    }
    assert found.words == ("100%",)


# ---------------------------------------------------------------- several rollouts of one model


def test_start__same_priority__conflicts_unless_the_classes_differ(fleet_on_1: Story) -> None:
    classes = sorted({device.hardware_class for device in fleet_on_1.devices})
    fleet_on_1.start("2", phases({"share": 1}, population={"hardware_classes": classes[:1]}))
    with pytest.raises(ConflictError) as refused:
        fleet_on_1.start("3", phases({"share": 1}))
    assert refused.value.code == "rollout_active"
    fleet_on_1.start("3", phases({"share": 1}, population={"hardware_classes": classes[1:]}))
    fleet_on_1.check()
    assert set(fleet_on_1.running()) == {"2", "3"}


def test_two_rollouts__higher_priority_first__the_other_gets_the_rest(fleet_on_1: Story) -> None:
    story = fleet_on_1
    story.start("2", phases({"share": 0.25}, {"share": 1}, priority=5, control_share=0.25))
    record = story.start("3", phases({"share": 1}))
    assert "other_rollout" in {item.code for item in record.findings}
    (upper, lower) = sorted(
        (rule for rule in assignments.rules(MODEL) if rule.state is RuleState.RUNNING), key=lambda rule: -rule.priority
    )
    claimed = selectors.phases(record.id)[0].counts.population
    places = [bucket(upper.seed, device.device_id) for device in story.devices]
    assert claimed == 16 - sum(place < upper.treated_end or place >= upper.control_start for place in places)
    story.check()
    assert len(by_version(story, "3")) == claimed
    assert lower.expected == claimed


# ---------------------------------------------------------------- schedules


def test_schedule__later__waits_for_its_moment_and_can_be_cancelled(fleet_on_1: Story) -> None:
    story = fleet_on_1
    begins = story.now + timedelta(hours=2)
    rollout = story.start("2", phases({"share": 1}, schedule={"start_at": begins.isoformat()}))
    assert rollout.state is RolloutState.SCHEDULED
    assert "starts by its schedule, not before 2026-03-01T14:00" in rollout.because
    story.check()
    assert by_version(story, "2") == set()
    assert story.tick() == ()
    story.pass_time(7_200)
    assert [item.action for item in story.tick()] == ["start"]
    story.check()
    assert len(by_version(story, "2")) == 16
    services.revert(rollout_id=rollout.id, actor="eve", reason="", now=story.now)
    other = story.start("3", phases({"share": 1}, schedule={"start_at": (begins + timedelta(days=9)).isoformat()}))
    assert services.cancel(rollout_id=other.id, actor="eve", reason="", now=story.now).state is RolloutState.CANCELLED


def test_schedule__hours__next_phase_waits_for_them(fleet_on_1: Story) -> None:
    """The story begins at noon."""
    story = fleet_on_1
    rollout = story.start("2", phases({"share": 0.5}, {"share": 1}, schedule={"hours": ["11:00-12:01"]}))
    assert rollout.state is RolloutState.RUNNING
    story.check()
    story.pass_time(120)
    assert story.tick() == ()
    assert "by its schedule it goes on at" in selectors.gates(rollout.id, now=story.now).sentence


def test_policy__schedule_without_a_zone__is_refused(fleet_on_1: Story) -> None:
    with pytest.raises(InvalidInputError, match=r"schedule\.start_at: expected a moment such as"):
        fleet_on_1.start("2", phases({"share": 1}, schedule={"start_at": "2026-03-01T08:00:00"}))


def test_start__another_class_has_moved_on__is_compared_with_what_its_own_class_runs(fleet_on_1: Story) -> None:
    story = fleet_on_1
    moved, other = sorted({device.hardware_class for device in story.devices})[:2]
    policy = phases({"share": 1})
    ahead = story.start("2", {**policy, "population": {"hardware_classes": [moved]}})
    services.advance(rollout_id=ahead.id, actor="eve", reason="", now=story.now)
    assert state_of(ahead) is RolloutState.COMPLETED
    planned: dict[str, Any] = {"model": MODEL, "version": "3", "now": story.now}
    found = services.plan(policy={**policy, "population": {"hardware_classes": [moved]}}, **planned)
    assert found.against == "2"
    assert services.plan(policy=policy, **planned).against == "2"
    begun = story.start("3", {**policy, "population": {"hardware_classes": [other]}})
    assert begun.against == "1"


# ---------------------------------------------------------------- back in steps


def test_revert__in_steps__shares_go_back_one_after_the_other(fleet_on_1: Story) -> None:
    story = fleet_on_1
    rollout = story.start("2", phases({"share": 1}, revert={"share_per_step": 0.5, "every_s": 60}))
    story.check()
    services.revert(rollout_id=rollout.id, actor="eve", reason="too slow", now=story.now)
    story.check()
    kept = by_version(story, "2")
    assert 0 < len(kept) < 16
    assert story.tick() == ()
    story.check()
    assert by_version(story, "2") == kept
    story.pass_time(61)
    assert [item.action for item in story.tick()] == ["revert_step"]
    story.check()
    assert story.running() == {"1": 16}
    assert [item.action for item in story.tick()] == ["reverted"]
    assert selectors.rollout(rollout.id).because == "too slow"


def test_revert__version_revoked_between_steps__the_rest_at_once(fleet_on_1: Story) -> None:
    story = fleet_on_1
    rollout = story.start("2", phases({"share": 1}, revert={"share_per_step": 0.1, "every_s": 6_000}))
    story.check()
    services.revert(rollout_id=rollout.id, actor="eve", reason="", now=story.now)
    revoke(story.releases["2"])
    assert [item.action for item in story.tick()] == ["revert_step"]
    story.pass_time(6)
    story.check()
    assert story.running() == {"1": 16}


def test_revert__again_between_steps__a_person_takes_the_rest_at_once(fleet_on_1: Story) -> None:
    story = fleet_on_1
    rollout = story.start("2", phases({"share": 1}, revert={"share_per_step": 0.1, "every_s": 6_000}))
    story.check()
    slow = services.revert(rollout_id=rollout.id, actor="eve", reason="slow", now=story.now)
    assert slow.steps_left == 9
    with pytest.raises(ConflictError, match="moved on"):
        services.revert(rollout_id=rollout.id, actor="eve", reason="", now=story.now, if_revision=rollout.revision)
    fast = services.revert(rollout_id=rollout.id, actor="eve", reason="it burns", now=story.now)
    assert (fast.state, fast.steps_left, fast.because) == (RolloutState.REVERTING, 0, "it burns")
    story.check()
    assert story.running() == {"1": 16}
    with pytest.raises(ConflictError, match="steps that are left"):
        services.revert(rollout_id=rollout.id, actor="eve", reason="", now=story.now)
    assert [item.action for item in story.tick()] == ["reverted"]


# ---------------------------------------------------------------- a clock that jumps


@pytest.mark.parametrize("jump_s", [3_600.0, -3_600.0])
def test_clock__jumps_an_hour__nothing_advances_holds_or_fails_for_it(fleet_on_1: Story, jump_s: float) -> None:
    story = fleet_on_1
    slow = phases({"share": 0.5, "min_duration_s": 600, "deadline_s": 1_200}, {"share": 1})
    rollout = story.start("2", slow)
    story.check(only=story.devices[:3])
    story.pass_time(60)
    story.pass_time(jump_s)
    seen = services.tick(now=story.now, holder=HOLDER, jumped_s=jump_s)
    assert (seen.decisions, seen.failures) == ((), ())
    story.check()
    for _ in range(5):
        story.pass_time(100)
        assert story.tick() == ()
    began_at = selectors.rollout(rollout.id).phase_started_at
    assert began_at is not None
    assert (story.now - began_at).total_seconds() == 560
    story.pass_time(100)
    story.check()
    assert [item.action for item in story.tick()] == ["advance"]


# ---------------------------------------------------------------- large fleets


def test_schedule__large_fleet__is_counted_when_its_moment_comes(
    fleet_on_1: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = fleet_on_1
    monkeypatch.setattr(starting, "COUNTED_AT_ONCE", 15)
    begins = story.now + timedelta(hours=2)
    rollout = story.start("2", phases({"count": 3}, {"share": 1}, schedule={"start_at": begins.isoformat()}))
    run_jobs(story)  # says early whether the plan can work, and starts nothing
    assert state_of(rollout) is RolloutState.SCHEDULED
    story.pass_time(7_200)
    assert story.tick() == ()
    run_jobs(story)
    assert state_of(rollout) is RolloutState.RUNNING
    story.check()
    assert len(by_version(story, "2")) == 3


def test_schedule__large_fleet_that_cannot_have_it__is_cancelled_early(
    fleet_on_1: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "COUNTED_AT_ONCE", 15)
    begins = fleet_on_1.now + timedelta(hours=2)
    rollout = fleet_on_1.start("2", phases({"count": 17}, {"share": 1}, schedule={"start_at": begins.isoformat()}))
    run_jobs(fleet_on_1)
    after = selectors.rollout(rollout.id)
    assert after.state is RolloutState.CANCELLED
    assert "asks for 17 devices, the population is 16" in after.because


def run_jobs(story: Story) -> None:
    while (job := jobs.claim(kinds=[services.JOB_KIND], owner="w", lease_s=60, now=story.now)) is not None:
        services.count_population(job.payload, story.now)
        assert jobs.finish(job=job, now=story.now)
