"""Quiet hours of a namespace, on real services and both databases."""

from datetime import timedelta
from typing import Any

import pytest

from device_client.wire.states import FailureCode
from fleet.apps.audit import selectors as audit
from fleet.apps.registry import services as registry
from fleet.apps.rollouts import selectors, services, starting
from fleet.demo import fleet_plan
from fleet.domain.errors import ConflictError, InvalidInputError, NotFoundError
from fleet.domain.rollout_states import RolloutState
from tests.server.catalogue import MODEL
from tests.server.story import Story

pytestmark = pytest.mark.django_db
TWO: dict[str, Any] = {
    "phases": [{"share": 0.5, "deadline_s": 86_400}, {"share": 1.0, "deadline_s": 86_400}],
    "gates": {"install_failures": {"max_share": 0.4}},
    "allow_delta": False,
}
NAMESPACE = MODEL.partition(".")[0]


def hush(story: Story, *, hours_from_now: float = -1, hours: float = 3) -> None:
    """It is quiet from then on, for so long, every day."""
    start = story.now + timedelta(hours=hours_from_now)
    end = start + timedelta(hours=hours)
    window = {"hours": [f"{start:%H:%M}-{end:%H:%M}"], "time_zone": "UTC"}
    registry.set_namespace(name=NAMESPACE, quiet_hours=[window], actor="user:root", now=story.now)


def state(rollout_id: str) -> RolloutState:
    return selectors.rollout(rollout_id).state


def test_start__in_quiet_hours__is_scheduled_and_begins_when_they_end(story: Story) -> None:
    hush(story)
    rollout = story.start("1", TWO, fleet_plan.SEED_INSTALL)
    assert rollout.state is RolloutState.SCHEDULED
    assert "quiet hours until" in rollout.because
    story.tick()
    assert state(rollout.id) is RolloutState.SCHEDULED
    story.pass_time(2 * 3_600 + 60)
    assert [item.action for item in story.tick()] == ["start"]
    assert state(rollout.id) is RolloutState.RUNNING


def test_advance__in_quiet_hours__waits_while_a_person_may(story: Story) -> None:
    rollout = story.start("1", TWO, fleet_plan.SEED_INSTALL)
    story.check()
    hush(story)
    assert story.tick() == ()
    assert "all gates pass; quiet hours until" in selectors.gates(rollout.id, now=story.now).sentence
    services.advance(rollout_id=rollout.id, actor="user:ann", reason="I am here", now=story.now)
    assert selectors.rollout(rollout.id).phase == 1


def test_gates__in_quiet_hours__still_revert(story: Story) -> None:
    rollout = story.start("1", TWO, fleet_plan.SEED_INSTALL)
    hush(story)
    story.check(fails=lambda _: FailureCode.DIGEST_MISMATCH)
    assert [item.action for item in story.tick()] == ["revert"]
    assert state(rollout.id) in (RolloutState.REVERTING, RolloutState.REVERTED)


def test_override__scheduled__starts_goes_on_and_is_on_record(story: Story) -> None:
    hush(story)
    rollout = story.start("1", TWO, fleet_plan.SEED_INSTALL)
    with pytest.raises(InvalidInputError, match="expected a reason"):
        services.override_quiet(rollout_id=rollout.id, actor="user:ann", reason=" ", now=story.now)
    found = services.override_quiet(rollout_id=rollout.id, actor="user:ann", reason="the fix", now=story.now)
    assert (found.state, found.ignores_quiet_hours) == (RolloutState.RUNNING, True)
    story.check()
    assert [item.action for item in story.tick()] == ["advance"]
    written = [(item.actor, item.action) for item in audit.entries(subject=rollout.id)]
    assert ("user:ann", "rollout.override_quiet") in written
    services.cancel(rollout_id=rollout.id, actor="user:ann", reason="", now=story.now)
    with pytest.raises(ConflictError, match="override_quiet"):
        services.override_quiet(rollout_id=rollout.id, actor="user:ann", reason="again", now=story.now)


def test_start__large_fleet__is_counted_only_after_the_quiet(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "COUNTED_AT_ONCE", 3)
    hush(story)
    rollout = story.start("1", TWO, fleet_plan.SEED_INSTALL)
    services.count_population({"rollout": rollout.id, "phase": 0}, story.now)
    assert state(rollout.id) is RolloutState.SCHEDULED
    story.pass_time(2 * 3_600 + 60)
    services.count_population({"rollout": rollout.id, "phase": 0}, story.now)
    assert state(rollout.id) is RolloutState.RUNNING


def test_approvals__last_one_in_quiet_hours__waits_an_emergency_does_not(story: Story) -> None:
    hush(story)
    rollout = story.start("1", {**TWO, "approvals": 1}, fleet_plan.SEED_INSTALL)
    services.approve(rollout_id=rollout.id, actor="user:bo", identity="bo", reason="read it", now=story.now)
    assert state(rollout.id) is RolloutState.SCHEDULED
    services.cancel(rollout_id=rollout.id, actor="user:bo", reason="", now=story.now)
    urgent = story.start("1", {**TWO, "approvals": 1}, fleet_plan.SEED_INSTALL)
    services.approve(
        rollout_id=urgent.id, actor="user:root", identity="root", reason="fire", is_emergency=True, now=story.now
    )
    assert state(urgent.id) is RolloutState.RUNNING


def test_set_namespace__one_rule__leaves_the_other_and_is_on_record(story: Story) -> None:
    hush(story)
    registry.set_namespace(name=NAMESPACE, approvals=2, actor="user:root", now=story.now)
    kept = registry.set_namespace(name=NAMESPACE, quiet_hours=[], actor="user:root", now=story.now)
    assert (kept.approvals, kept.quiet.windows) == (2, ())
    with pytest.raises(InvalidInputError, match="IANA time zone"):
        registry.set_namespace(name=NAMESPACE, quiet_hours=[{"time_zone": "Nowhere"}], actor="user:root", now=story.now)
    with pytest.raises(NotFoundError):
        registry.set_namespace(name="nobody", quiet_hours=[], actor="user:root", now=story.now)
