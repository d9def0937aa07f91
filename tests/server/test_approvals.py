"""Rollouts that wait for other people's consent, on real services and both databases."""

from typing import Any

import pytest

from fleet.apps.audit import selectors as audit
from fleet.apps.registry import services as registry
from fleet.apps.registry.models import Version
from fleet.apps.rollouts import selectors, services, starting
from fleet.apps.rollouts.records import RolloutRecord
from fleet.demo import fleet_plan
from fleet.domain.errors import ConflictError, ForbiddenError, NotFoundError
from fleet.domain.rollout_states import RolloutState
from tests.server.catalogue import MODEL
from tests.server.story import Story

pytestmark = pytest.mark.django_db
ALL: dict[str, Any] = {"preset": "all-at-once", "phases": [{"share": 1.0, "deadline_s": 60}], "allow_delta": False}
NAMESPACE = MODEL.partition(".")[0]


def waiting(story: Story, approvals: int = 2, version: str = "1") -> RolloutRecord:
    return story.start(version, {**ALL, "approvals": approvals}, fleet_plan.SEED_INSTALL)


def approve(story: Story, rollout: RolloutRecord, actor: str, **more: Any) -> RolloutRecord:
    said = {"identity": f"identity of {actor}", "reason": "read the card", **more}
    return services.approve(rollout_id=rollout.id, actor=actor, now=story.now, **said)


def actions(rollout: RolloutRecord) -> list[str]:
    return [item.action for item in reversed(selectors.decisions(rollout.id))]


def test_start__policy_asks_for_two__waits_and_no_device_hears_of_it(story: Story) -> None:
    rollout = waiting(story)
    assert (rollout.state, rollout.approvals_required, rollout.approvals) == (RolloutState.AWAITING_APPROVAL, 2, ())
    story.check()
    assert story.running() == {"": 16}
    assert story.tick() == ()
    assert rollout.rule_id is None


def test_approve__two_others__starts_with_the_second(story: Story) -> None:
    rollout = waiting(story)
    first = approve(story, rollout, "user:bo")
    assert (first.state, first.because) == (
        RolloutState.AWAITING_APPROVAL,
        "approved by 1 of 2; waits for 1 more: read the card",
    )
    second = approve(story, rollout, "user:cy")
    assert second.state is RolloutState.RUNNING
    assert [(item.actor, item.reason, item.is_emergency) for item in second.approvals] == [
        ("user:bo", "read the card", False),
        ("user:cy", "read the card", False),
    ]
    assert actions(rollout) == ["submit", "approve", "approve", "start"]
    story.check()
    assert story.running() == {"1": 16}
    with pytest.raises(ConflictError, match="got approve"):
        approve(story, rollout, "user:dan")


def test_approve__own_or_twice_or_outdated__refused_and_nothing_changes(story: Story) -> None:
    rollout = waiting(story)
    with pytest.raises(ForbiddenError, match="somebody else than test"):
        approve(story, rollout, "test")
    approve(story, rollout, "user:bo")
    with pytest.raises(ConflictError, match="has not approved yet"):
        approve(story, rollout, "user:bo")
    with pytest.raises(ConflictError, match="moved on"):
        approve(story, rollout, "user:cy", if_revision=rollout.revision)
    found = selectors.rollout(rollout.id)
    assert (found.state, len(found.approvals)) == (RolloutState.AWAITING_APPROVAL, 1)


def test_approve__emergency_by_the_starter__starts_and_is_on_record_as_that(story: Story) -> None:
    rollout = waiting(story)
    assert approve(story, rollout, "test", is_emergency=True).state is RolloutState.RUNNING
    said = next(item for item in selectors.decisions(rollout.id) if item.action == "approve")
    assert said.evidence == {"reason": "read the card", "given": 0, "required": 2, "emergency": True}
    logged = next(item for item in audit.entries(limit=20) if item.action == "rollout.approve")
    assert "an emergency" in str(logged.detail)


def test_namespace__asks_for_one__holds_for_every_policy(story: Story) -> None:
    registry.set_namespace(name=NAMESPACE, approvals=1, actor="test", now=story.now)
    rollout = story.start("1", ALL, fleet_plan.SEED_INSTALL)
    assert (rollout.state, rollout.approvals_required) == (RolloutState.AWAITING_APPROVAL, 1)
    assert waiting(story, approvals=3).approvals_required == 3
    with pytest.raises(NotFoundError):
        registry.set_namespace(name="nobody", approvals=1, actor="test", now=story.now)


def test_cancel__while_it_waits__never_starts(story: Story) -> None:
    rollout = waiting(story, approvals=1)
    services.cancel(rollout_id=rollout.id, actor="test", reason="", now=story.now)
    with pytest.raises(ConflictError):
        approve(story, rollout, "user:bo")
    assert selectors.rollout(rollout.id).state is RolloutState.CANCELLED


def test_approved__another_one_runs__is_scheduled_until_that_has_ended(story: Story) -> None:
    story.push("2")
    rollout = waiting(story, approvals=1)
    other = story.start("2", ALL, fleet_plan.SEED_INSTALL)
    assert approve(story, rollout, "user:bo").state is RolloutState.SCHEDULED
    assert story.tick() == ()
    services.cancel(rollout_id=other.id, actor="test", reason="", now=story.now)
    (begun,) = story.tick()
    assert begun.action == "start"
    assert selectors.rollout(rollout.id).state is RolloutState.RUNNING


def test_approved__baseline_has_changed_meanwhile__cancelled_with_the_reason(story: Story) -> None:
    story.push("2")
    rollout = waiting(story, approvals=1)
    other = story.start("2", ALL, fleet_plan.SEED_INSTALL)
    approve(story, rollout, "user:bo")
    services.advance(rollout_id=other.id, actor="test", reason="", now=story.now)
    (ended,) = story.tick()
    assert ended.action == "cancel"
    assert "the baseline is not the version that it was approved against" in ended.sentence


def test_approved__version_was_revoked_meanwhile__never_starts(story: Story) -> None:
    rollout = waiting(story, approvals=1)
    Version.objects.update(state=Version.State.REVOKED)
    found = approve(story, rollout, "user:bo")
    assert found.state is RolloutState.CANCELLED
    assert found.because == "not started: expected a published version, got 1 revoked"
    assert found.rule_id is None


def test_approved__large_fleet__begins_when_it_is_counted(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "COUNTED_AT_ONCE", 10)
    rollout = waiting(story, approvals=1)
    assert approve(story, rollout, "user:bo").state is RolloutState.SCHEDULED
    services.count_population({"rollout": rollout.id, "phase": 0}, story.now)
    assert selectors.rollout(rollout.id).state is RolloutState.RUNNING


def test_approved__large_fleet__baseline_changes_before_the_count__cancelled(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    story.push("2")
    rollout = waiting(story, approvals=1)
    monkeypatch.setattr(starting, "COUNTED_AT_ONCE", 10)
    approve(story, rollout, "user:bo")
    other = story.start("2", {**ALL, "priority": 5})
    services.count_population({"rollout": other.id, "phase": 0}, story.now)
    services.advance(rollout_id=other.id, actor="test", reason="", now=story.now)
    services.count_population({"rollout": rollout.id, "phase": 0}, story.now)
    found = selectors.rollout(rollout.id)
    assert found.state is RolloutState.CANCELLED
    assert "the baseline is not the version that it was approved against" in found.because


def test_approved__large_fleet__two_at_once__the_second_waits_for_the_first(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    story.push("2")
    monkeypatch.setattr(starting, "COUNTED_AT_ONCE", 10)
    first, second = waiting(story, approvals=1), waiting(story, approvals=1, version="2")
    for rollout in (first, second):
        approve(story, rollout, "user:bo")
    for rollout in (first, second):
        services.count_population({"rollout": rollout.id, "phase": 0}, story.now)
    states = [selectors.rollout(item.id).state for item in (first, second)]
    assert states == [RolloutState.RUNNING, RolloutState.SCHEDULED]
