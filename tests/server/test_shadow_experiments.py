"""Shadow experiments on the demo's fleet, simulated: told, measured, decided, promoted; nobody is served a candidate."""

from dataclasses import replace
from typing import Any

import pytest

from device_client.wire.shadow import ShadowTotals
from fleet.apps.assignments import selectors as assignments
from fleet.apps.experiments import conducting, selectors, services
from fleet.apps.experiments.records import DecisionRecord, ExperimentRecord
from fleet.apps.telemetry import services as telemetry
from fleet.apps.telemetry.records import Incoming
from fleet.domain.errors import ConflictError
from fleet.domain.experiment_states import ExperimentState
from tests.server.catalogue import MODEL, revoke
from tests.server.story import HOLDER, Story

pytestmark = pytest.mark.django_db

SPEC: dict[str, Any] = {
    "arms": [
        {"name": "champion", "version": "1", "weight": 0},
        {"name": "candidate", "version": "2", "weight": 1},
    ],
    "shadow": {"inference_share": 0.5, "time_share": 0.25},
    "success": {"accuracy": {"effect_points": 5, "min_labels_per_device": 30}},
    "guardrails": {"errors": {"max_share": 0.05, "min_inferences_per_device": 30}},
    "duration_s": 600,
    "allow_delta": False,
}


@pytest.fixture
def story() -> Story:
    """The fleet with version 1 as its baseline, and two more versions."""
    found = Story()
    for device in found.devices:
        device.capabilities = replace(device.capabilities, shadow=True)
    return found.settle_on_1("2", "3")


def begin(story: Story, **changes: Any) -> ExperimentRecord:
    drafted = services.create(model=MODEL, spec={**SPEC, **changes}, actor="test", now=story.now)
    return services.start(experiment_id=drafted.id, actor="test", now=story.now)


def measure(
    story: Story, *, only_candidate: int, only_champion: int, errors: int = 0, version: str = "2", skipped: int = 0
) -> None:
    """Every device with a shadow reports 100 pairs of it."""
    story.pass_time(1)
    reports = []
    for device in story.devices:
        window = device.window(story.now, n=400)
        if device.shadow:
            gained = only_candidate + device.dice.randint(0, 2)
            told = ShadowTotals(
                version,
                story.releases["2"].digest,
                n=100 + errors,
                errors=errors,
                skipped=skipped,
                compared=100,
                agreed=100 - gained - only_champion,
                both=100 - gained - only_champion,
                only_champion=only_champion,
                only_candidate=gained,
            )
            window = replace(window, shadow=told)
        reports.append(Incoming(device.device_id, window))
    telemetry.take_in(messages=reports, now=story.now)
    story.pass_time(1)


def tick(story: Story) -> tuple[DecisionRecord, ...]:
    seen = conducting.tick(now=story.now, holder=HOLDER)
    assert seen.failures == ()
    return seen.decisions


def test_shadow__whole_life__told_compared_decided_promoted(story: Story) -> None:
    experiment = begin(story)
    story.check()
    assert story.running() == {"1": 16}
    assert {device.shadow for device in story.devices} == {"2"}
    measure(story, only_candidate=14, only_champion=2)
    results = selectors.results(experiment.id, now=story.now)
    candidate = next(item for item in results.arms if item.name == "candidate")
    assert (candidate.offered, candidate.committed, candidate.failed) == (16, 16, 0)
    (decision,) = tick(story)
    assert (decision.action, decision.verdict) == ("decide", "ship")
    assert "higher than the champion's on the same inputs" in decision.sentence
    story.check()
    assert {device.shadow for device in story.devices} == {""}
    assert story.running() == {"1": 16}
    policy = {"phases": [{"share": 0.25}, {"share": 1.0}], "allow_delta": False}
    promoted = services.promote(experiment_id=experiment.id, policy=policy, actor="test", reason="", now=story.now)
    assert promoted.state is ExperimentState.PROMOTED
    story.check()
    assert 0 < story.running()["2"] < 16  # from the first phase on: nobody ran it before


def test_shadow__candidate_is_worse__stops_and_shadows_end(story: Story) -> None:
    experiment = begin(story)
    story.check()
    measure(story, only_candidate=0, only_champion=20)
    (decision,) = tick(story)
    assert (decision.action, decision.verdict) == ("stop", "harm")
    assert selectors.experiment(experiment.id).state is ExperimentState.STOPPED
    story.check()
    assert {device.shadow for device in story.devices} == {""}
    assert story.running() == {"1": 16}


def test_shadow__device_with_an_old_client__is_told_nothing_and_explain_says_why(story: Story) -> None:
    old = story.devices[0]
    old.capabilities = replace(old.capabilities, shadow=False)
    begin(story)
    story.check()
    assert [device.shadow for device in story.devices].count("2") == 15
    explained = assignments.assignment(device_id=old.device_id, model=MODEL)
    assert explained is not None
    assert any("does not know what a shadow is" in step.sentence for step in explained.trace)


def test_shadow__totals_of_another_version_or_of_nobody_asked__count_for_nothing(story: Story) -> None:
    experiment = begin(story)
    story.check()
    measure(story, only_candidate=20, only_champion=0, version="3")
    assert tick(story) == ()
    results = selectors.results(experiment.id, now=story.now)
    assert {item["finding"] for item in results.comparisons} == {"wait"}


def test_shadow__fails_too_often__is_harm(story: Story) -> None:
    begin(story)
    story.check()
    measure(story, only_candidate=14, only_champion=2, errors=60)
    (decision,) = tick(story)
    assert decision.verdict == "harm"
    assert "the share of failed inferences, of candidate" in decision.sentence


def test_shadow__devices_are_too_busy__waits_and_says_why(story: Story) -> None:
    experiment = begin(story, success={"accuracy": {"effect_points": 1, "min_labels_per_device": 1_000}})
    story.check()
    measure(story, only_candidate=14, only_champion=2, skipped=300)
    assert tick(story) == ()
    accuracy = next(
        item
        for item in selectors.results(experiment.id, now=story.now).comparisons
        if item["metric"] == "accuracy" and item["role"] == "success"
    )
    assert "16 devices had no time or memory for 75% of what was chosen" in str(accuracy["sentence"])


def test_shadow__candidate_revoked__stops_at_once(story: Story) -> None:
    begin(story)
    story.check()
    revoke(story.releases["2"])
    (decision,) = tick(story)
    assert (decision.action, decision.sentence) == ("stop", "stopped: version 2 was revoked")


def test_start__champion_is_not_the_baseline__is_refused(story: Story) -> None:
    arms = [{"name": "champion", "version": "3", "weight": 0}, {"name": "candidate", "version": "2"}]
    with pytest.raises(ConflictError, match="which is version 1, as the champion, got version 3"):
        begin(story, arms=arms)
