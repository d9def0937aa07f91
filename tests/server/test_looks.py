"""What the conductor last saw of a rollout is what others are shown; nobody judges a phase again for a page."""

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from fleet.apps.rollouts import looks, selectors, services
from fleet.apps.rollouts.models import Look, PhaseRun
from fleet.apps.rollouts.records import GatesRecord, RolloutRecord
from fleet.demo import fleet_plan
from fleet.domain.conductor import Action
from fleet.domain.verdicts import Verdict
from tests.server.story import Story

pytestmark = pytest.mark.django_db

RAMP = {
    "phases": [{"share": 0.25, "min_duration_s": 3_600, "deadline_s": 7_200}, {"share": 1.0}],
    "control_share": 0.5,
    "allow_delta": False,
    "gates": {"accuracy": {"margin_points": 20, "min_labels_per_device": 20}},
}
GOOD, BAD = {"1": 0.9, "2": 0.9}, {"1": 0.9, "2": 0.1}


@pytest.fixture
def ramp() -> tuple[Story, RolloutRecord]:
    """Version 2 in its first phase, which waits for its minimum."""
    story = Story()
    story.push("1")
    first = story.start("1", {"phases": [{"share": 1.0}], "gates": {}})
    story.check()
    services.advance(rollout_id=first.id, actor="op", reason="", now=story.now)
    story.push("2")
    rollout = story.start("2", RAMP, fleet_plan.SEED_BETTER)
    story.check()
    story.measure(GOOD)
    assert story.tick() == ()
    return story, rollout


def labelled(found: GatesRecord) -> float:
    """How many labels the accuracy gate has seen of the treated."""
    (gate,) = (item for item in found.gates if item["name"] == "accuracy" and item["kind"] == "control")
    evidence = gate["evidence"]
    assert isinstance(evidence, dict)
    return float(evidence["treated"]["denominator"])


def test_look__totals_since__shown_as_they_were_seen(ramp: tuple[Story, RolloutRecord]) -> None:
    story, rollout = ramp
    looked_at, first = story.now, selectors.gates(rollout.id, now=story.now)
    story.pass_time(1)
    story.measure(GOOD)
    with CaptureQueriesContext(connection) as queries:
        again = selectors.gates(rollout.id, now=story.now)
    assert (again.at, labelled(again), again.offers) == (looked_at, labelled(first), first.offers)
    assert not [query for query in queries if "gatetotal" in query["sql"] or "assignments_offer" in query["sql"]]
    assert again.sentence.startswith("all gates pass;")
    assert sum(item.offered for item in again.offers) == 4


def test_look__same_words__figures_are_stored_every_few_seconds(ramp: tuple[Story, RolloutRecord]) -> None:
    story, rollout = ramp
    looked_at, seen = story.now, labelled(selectors.gates(rollout.id, now=story.now))
    story.measure(GOOD)  # takes two seconds
    story.tick()
    assert Look.objects.get().at == looked_at
    story.pass_time(looks.STORED_EVERY.total_seconds())
    story.tick()
    found = selectors.gates(rollout.id, now=story.now)
    assert found.at == story.now
    assert labelled(found) > seen


def test_look__another_verdict__is_stored_at_once(ramp: tuple[Story, RolloutRecord]) -> None:
    story, rollout = ramp
    story.pass_time(1)
    story.measure(BAD, labels=600)
    assert [item.action for item in story.tick()] == ["revert"]
    row = Look.objects.get()
    assert (row.at, row.action, row.judgement["verdict"]) == (story.now, Action.REVERT, Verdict.FAIL)
    found = selectors.gates(rollout.id, now=story.now + timedelta(hours=1))
    assert (found.frozen, found.verdict) == (True, Verdict.FAIL)
    assert sum(item.committed for item in found.offers) == 4


def test_advance__by_a_person__keeps_what_the_conductor_saw(ramp: tuple[Story, RolloutRecord]) -> None:
    story, rollout = ramp
    seen = Look.objects.get().judgement
    services.advance(rollout_id=rollout.id, actor="op", reason="enough", now=story.now)
    assert PhaseRun.objects.get(rollout_id=rollout.id, index=0).judgement == seen
    assert selectors.decisions(rollout.id)[0].verdict == Verdict.PASS
    # Nobody has looked at the new phase: it is judged for who asks.
    found = selectors.gates(rollout.id, now=story.now)
    assert (found.phase, found.at) == (1, story.now)


def test_offers__ended_rollout__few_are_counted_and_many_are_as_last_seen(
    ramp: tuple[Story, RolloutRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    story, rollout = ramp
    services.cancel(rollout_id=rollout.id, actor="op", reason="enough", now=story.now)
    counted = selectors.gates(rollout.id, now=story.now)
    monkeypatch.setattr(selectors, "OFFERS_COUNTED", 3)
    with CaptureQueriesContext(connection) as queries:
        assert selectors.gates(rollout.id, now=story.now).offers == counted.offers
    assert not [query for query in queries if "GROUP BY" in query["sql"]]
    assert sum(item.committed for item in counted.offers) == 4
