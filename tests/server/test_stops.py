"""The emergency stop on real services and both databases: nobody moves, what runs keeps running, everybody hears why."""

from dataclasses import replace
from typing import Any

import pytest

from device_client.wire.director import Decision
from device_client.wire.messages import PlanNotice
from device_client.wire.messages import RuleState as Ask
from device_client.wire.states import UpdateState
from fleet.apps.assignments import answers, stops
from fleet.apps.assignments import selectors as assignments
from fleet.apps.audit import selectors as audit
from fleet.apps.outbox import services as outbox
from fleet.apps.rollouts import selectors, services
from fleet.apps.rollouts.records import RolloutRecord
from fleet.demo import fleet_plan
from fleet.domain.errors import ConflictError, InvalidInputError, ModelfleetError, NotFoundError
from fleet.domain.rollout_states import RolloutState
from tests.server.catalogue import MODEL
from tests.server.story import Story

pytestmark = pytest.mark.django_db
NAMESPACE = MODEL.partition(".")[0]
RAMP: dict[str, Any] = {
    "phases": [{"share": share, "min_duration_s": 1, "deadline_s": 60} for share in (0.5, 1.0)],
    "gates": {"install_failures": {"max_share": 0.2, "min_installed_share": 0.5}},
    "allow_delta": False,
}


@pytest.fixture
def rollout(story: Story) -> RolloutRecord:
    """Half of the fleet is to get version 1; nobody has asked yet."""
    return story.start("1", RAMP, fleet_plan.SEED_INSTALL)


def newest_notice(story: Story) -> PlanNotice:
    messages = outbox.claim_batch(limit=100, now=story.now)
    return PlanNotice.parse([item.payload for item in messages if "/plan/" in item.topic][-1])


def state_of(rollout: RolloutRecord) -> RolloutState:
    return selectors.rollout(rollout.id).state


@pytest.mark.parametrize("scope", [MODEL, NAMESPACE, "*"])
def test_stop__any_reach__no_new_device_and_what_runs_keeps_running(
    story: Story, rollout: RolloutRecord, scope: str
) -> None:
    story.check(only=story.devices[:8])
    before = story.running()
    assert before["1"] >= 1
    revision = newest_notice(story).revision
    stops.stop(scope=scope, reason="smoke", actor="user:anna", now=story.now)
    notice = newest_notice(story)
    assert notice.revision == revision + 1
    assert {rule.state for rule in notice.rules} == {Ask.HALT}
    story.check()
    assert story.running() == before
    refused = [assignments.assignment(device_id=item.device_id, model=MODEL) for item in story.devices]
    reasons = {item.because for item in refused if item is not None and item.decision == "nothing"}
    shown = "everything" if scope == "*" else scope
    assert any(f"{shown} was stopped by user:anna: smoke" in reason for reason in reasons)
    traced = next(item for item in refused if item is not None and "smoke" in item.because)
    assert traced.trace[-1].outcome == "refused"
    stops.lift(scope=scope, reason="was the oven", actor="user:bo", now=story.now)
    assert {rule.state for rule in newest_notice(story).rules} == {Ask.RUN}
    story.check()
    assert story.running()["1"] > before["1"]


def test_stop__the_conductor__holds_what_runs_and_a_person_resumes_it(story: Story, rollout: RolloutRecord) -> None:
    story.check()
    story.pass_time(2)
    stops.stop(scope=MODEL, reason="smoke", actor="user:anna", now=story.now)
    (held,) = story.tick()
    assert (held.action, state_of(rollout)) == ("hold", RolloutState.HELD)
    assert "was stopped by user:anna: smoke" in held.sentence
    assert story.tick() == ()
    act: dict[str, Any] = {"rollout_id": rollout.id, "actor": "test", "reason": "", "now": story.now}
    for refused in (services.resume, services.advance):
        with pytest.raises(ConflictError, match="smoke"):
            refused(**act)
    assert state_of(rollout) is RolloutState.HELD
    stops.lift(scope=MODEL, reason="", actor="user:anna", now=story.now)
    assert story.tick() == ()
    services.resume(**act)
    assert state_of(rollout) is RolloutState.RUNNING


def test_stop__device_in_mid_download__is_told_to_wait_until_it_is_over(story: Story, rollout: RolloutRecord) -> None:
    story.check(only=story.devices[:8])
    device = next(item for item in story.devices[:8] if item.running.version == "1")
    device.running = replace(device.running, version="", digest="", state=UpdateState.DOWNLOADING)

    def told() -> Decision:
        asked = device.check(story.now)
        answer = answers.answer_check(device_id=device.device_id, check=asked, now=story.now)
        return answer.binding.answers[MODEL].decision

    stops.stop(scope=MODEL, reason="smoke", actor="user:anna", now=story.now)
    assert told() is Decision.LATER
    device.running = replace(device.running, state=UpdateState.HALTED)
    assert [item.action for item in story.tick()] == ["hold"]
    assert told() is Decision.LATER
    stops.lift(scope=MODEL, reason="", actor="user:anna", now=story.now)
    assert told() is Decision.LATER
    services.resume(rollout_id=rollout.id, actor="test", reason="", now=story.now)
    assert told() is Decision.NOW


def test_stop__rollout_that_would_start__refused(story: Story) -> None:
    stops.stop(scope="*", reason="smoke", actor="user:anna", now=story.now)
    with pytest.raises(ConflictError, match="everything was stopped"):
        story.start("1", RAMP, fleet_plan.SEED_INSTALL)
    assert selectors.rollouts() == ()


def test_stop__revert_meanwhile__nobody_goes_back_and_the_revert_waits(story: Story, rollout: RolloutRecord) -> None:
    story.check()
    before = story.running()
    stops.stop(scope=MODEL, reason="smoke", actor="user:anna", now=story.now)
    services.revert(rollout_id=rollout.id, actor="test", reason="", now=story.now)
    story.check()
    assert story.running() == before
    story.pass_time(RAMP.get("revert_deadline_s", 90_000))
    assert story.tick() == ()
    assert state_of(rollout) is RolloutState.REVERTING


@pytest.mark.parametrize(
    ("scope", "reason", "error"),
    [
        ("vision.nothing", "x", NotFoundError),
        ("nobody", "x", NotFoundError),
        ("", "x", InvalidInputError),
        ("UPPER", "x", InvalidInputError),
        (MODEL, " ", InvalidInputError),
    ],
)
def test_stop__of_nothing_or_without_a_reason__refused(
    story: Story, scope: str, reason: str, error: type[ModelfleetError]
) -> None:
    with pytest.raises(error):
        stops.stop(scope=scope, reason=reason, actor="user:anna", now=story.now)
    assert assignments.stops() == ()


def test_stop__twice_and_lifted_twice__refused_and_on_record_once(story: Story) -> None:
    stops.stop(scope=MODEL, reason="smoke", actor="user:anna", now=story.now)
    with pytest.raises(ConflictError):
        stops.stop(scope=MODEL, reason="again", actor="user:bo", now=story.now)
    stops.lift(scope=MODEL, reason="", actor="user:bo", now=story.now)
    with pytest.raises(NotFoundError):
        stops.lift(scope=MODEL, reason="", actor="user:bo", now=story.now)
    logged = [(item.action, item.actor) for item in audit.entries(limit=10) if item.action.startswith("stop.")]
    assert sorted(logged) == [("stop.lift", "user:bo"), ("stop.set", "user:anna")]
