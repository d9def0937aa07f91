"""Populations counted where their rows are, and by a job where a person would have to wait for them."""

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from device_client.wire.bucketing import BUCKETS, bucket
from fleet.apps.assignments import selectors as assignments
from fleet.apps.assignments import stops
from fleet.apps.devices import selectors as devices
from fleet.apps.devices import services as device_services
from fleet.apps.devices.records import Claim, DeviceChoice
from fleet.apps.experiments import dry_runs as experiment_dry_runs
from fleet.apps.experiments import services as experiments
from fleet.apps.jobs import services as jobs
from fleet.apps.registry.models import Version
from fleet.apps.rollouts import dry_runs, selectors, services, starting
from fleet.apps.rollouts.population import Population, population
from fleet.apps.rollouts.records import PlanRecord, RolloutRecord
from fleet.demo import fleet_plan
from fleet.domain.conductor import UNCOUNTED
from fleet.domain.errors import ConflictError, InvalidInputError, UnavailableError
from fleet.domain.filters.filter import Filter
from fleet.domain.rollout_states import RolloutState
from tests.server.catalogue import MODEL, NOW, later
from tests.server.story import Story
from tests.server.test_rollouts import RAMP

pytestmark = pytest.mark.django_db

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "bucketing_v1.json").read_text(encoding="utf-8")
)
EVERYONE = DeviceChoice()


def enrol(*device_ids: str, **attributes: str) -> None:
    for device_id in device_ids:
        device_services.enrol(device_id=device_id, hardware_class="edge-std", attributes=attributes, now=NOW)


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: f"{case['seed']}:{case['device_id']}")
def test_bucket_in_sql__vector__same_bucket(case: dict[str, Any]) -> None:
    enrol(case["device_id"])
    place = case["bucket"]
    around = [edge for edge in (place - 1, place, place + 1) if 0 < edge < BUCKETS]
    (tally,) = devices.tallies(choice=EVERYONE, seed=case["seed"], edges=around)
    assert tally.segment == sum(edge <= place for edge in around)


def test_tallies__many_devices_and_edges__as_one_by_one() -> None:
    names = [f"dev-{number}" for number in range(200)]
    enrol(*names)
    edges = list(range(0, BUCKETS + 1, BUCKETS // 20))
    found = {item.segment: item.devices for item in devices.tallies(choice=EVERYONE, seed="s", edges=edges)}
    wanted: dict[int, int] = {}
    for name in names:
        segment = sum(edge <= bucket("s", name) for edge in edges)
        wanted[segment] = wanted.get(segment, 0) + 1
    assert found == wanted


def test_tallies__conditions_of_a_policy__all_hold() -> None:
    enrol("a-1", "a-2", "a-3", site="x")
    enrol("b-1", site="y")
    device_services.set_group(name="first", device_ids=["a-1", "a-2", "b-1"], now=NOW)
    device_services.set_group(name="second", device_ids=["a-1"], now=NOW)
    device_services.touch(device_ids={"a-1", "a-2", "a-3", "b-1"}, now=later(10))
    choice = DeviceChoice(
        groups=("first", "second"), hardware_classes=("edge-std", "edge-big"), seen_since=later(5), filter=at_site("x")
    )
    (tally,) = devices.tallies(choice=choice, seed="s", edges=[])
    assert (tally.devices, tally.segment, tally.first, tally.last) == (2, 0, "a-1", "a-2")
    assert devices.tallies(choice=DeviceChoice(seen_since=later(11)), seed="s", edges=[]) == ()
    assert devices.tallies(choice=DeviceChoice(hardware_classes=("edge-big",)), seed="s", edges=[]) == ()


def test_devices_that_are_left_out__never_a_list_that_each_device_is_looked_up_in() -> None:
    """PostgreSQL takes the square of the fleet for `NOT IN` a list that is larger than its memory."""
    enrol("a-1", "a-2", "a-3", "a-4")
    device_services.set_group(name="first", device_ids=["a-1"], now=NOW)
    claim = Claim(choice=EVERYONE, seed="s", spans=(), ids=("a-2",))
    left = DeviceChoice(not_groups=("first",), unclaimed_by=(claim,))
    with CaptureQueriesContext(connection) as queries:
        found = devices.some_of(choice=EVERYONE, beyond=left, limit=5)
        (tally,) = devices.tallies(choice=left, seed="s", edges=[])
    assert found == (2, ("a-1", "a-2"))
    assert (tally.devices, tally.first, tally.last) == (2, "a-3", "a-4")
    said = " ".join(query["sql"] for query in queries)
    assert "NOT EXISTS" in said
    assert not re.search(r"NOT IN \(SELECT|NOT \([^()]* IN \(SELECT", said)


def at_site(name: str) -> Filter | None:
    return Filter.parse(f'attributes.site == "{name}"')


# ---------------------------------------------------------------- counted by a job


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> Story:
    """The fleet on version 1, and larger than what is counted at once."""
    story = Story().settle_on_1("2")
    monkeypatch.setattr(starting, "COUNTED_AT_ONCE", 15)
    return story


def count(story: Story) -> int:
    """Do the counting that is queued; returns how many jobs there were."""
    return do(story, services.JOB_KIND, services.count_population)


def do(story: Story, kind: str, work: Callable[[Mapping[str, object], datetime], None]) -> int:
    """Do what is queued of this kind, as a worker does; returns how many jobs there were."""
    done = 0
    while (job := jobs.claim(kinds=[kind], owner="w", lease_s=60, now=story.now)) is not None:
        work(job.payload, story.now)
        assert jobs.finish(job=job, now=story.now)
        done += 1
    return done


def state_of(rollout: RolloutRecord) -> RolloutState:
    return selectors.rollout(rollout.id).state


def test_start__large_fleet__begins_when_it_is_counted(large: Story) -> None:
    rollout = large.start("2", RAMP, fleet_plan.SEED_BETTER)
    assert (rollout.state, rollout.rule_id) == (RolloutState.SCHEDULED, None)
    assert large.tick() == ()
    large.check()
    assert large.running() == {"1": 16}
    assert count(large) == 1
    assert state_of(rollout) is RolloutState.RUNNING
    (phase,) = selectors.phases(rollout.id)
    assert (phase.counts.treated, phase.counts.control, phase.counts.population) == (4, 8, 16)
    start, scheduled = selectors.decisions(rollout.id)
    assert (scheduled.action, start.action, start.actor) == ("schedule", "start", "test")
    assert start.sentence == "version 2 starts at 25% of 16 devices, against version 1: 4 treated, 8 control"
    large.check()
    assert large.running() == {"1": 12, "2": 4}


def test_start__control_of_too_many_devices__a_smaller_share_is_counted_and_kept(large: Story) -> None:
    """Three quarters of 16 devices are 12; at most 8 are half of them."""
    policy = {**RAMP, "control_share": 0.75, "control_devices": 8}
    planned = services.plan(model=MODEL, version="2", policy=policy, now=large.now, seed=fleet_plan.SEED_BETTER)
    assert [(item.treated, item.control) for item in planned.phases] == [(4, 8), (8, 8), (16, 0)]
    rollout = large.start("2", policy, fleet_plan.SEED_BETTER)
    count(large)
    begun = selectors.rollout(rollout.id)
    assert (begun.state, begun.policy["control_share"]) == (RolloutState.RUNNING, 0.5)
    (rule,) = [item for item in assignments.rules(MODEL) if item.source == rollout.id]
    assert rule.control_start == BUCKETS // 2
    enrol("late-1", "late-2", "late-3")
    services.advance(rollout_id=rollout.id, actor="eve", reason="", now=large.now)
    count(large)
    (rule,) = [item for item in assignments.rules(MODEL) if item.source == rollout.id]
    assert rule.control_start == BUCKETS // 2


def test_dry_run__large_fleet__is_counted_by_a_job_and_told_for_a_minute(large: Story) -> None:
    def ask() -> PlanRecord | None:
        return dry_runs.dry_run(model=MODEL, version="2", policy=RAMP, now=large.now, seed=fleet_plan.SEED_BETTER)

    assert ask() is None
    assert ask() is None
    planned = services.plan(model=MODEL, version="2", policy=RAMP, now=large.now, seed=fleet_plan.SEED_BETTER)
    assert do(large, dry_runs.JOB_KIND, dry_runs.answer) == 1
    assert ask() == planned
    large.pass_time(59)
    enrol("late-1")
    assert ask() == planned
    large.pass_time(2)
    assert ask() is None
    assert do(large, dry_runs.JOB_KIND, dry_runs.answer) == 1
    again = ask()
    assert again is not None
    assert again.counted_at == large.now
    with pytest.raises(InvalidInputError, match="preset"):
        dry_runs.dry_run(model=MODEL, version="2", policy="yolo", now=large.now)
    with pytest.raises(ConflictError, match="baseline"):
        dry_runs.dry_run(model=MODEL, version="2", policy=RAMP, against="2", now=large.now)


def test_dry_run__job_was_given_up__said_once_and_tried_anew(large: Story) -> None:
    assert dry_runs.dry_run(model=MODEL, version="2", policy=RAMP, now=large.now) is None
    job = jobs.claim(kinds=[dry_runs.JOB_KIND], owner="w", lease_s=60, now=large.now)
    assert job is not None
    jobs.fail(job=job, error="it broke", now=large.now, permanent=True)
    with pytest.raises(UnavailableError, match="could not be counted: it broke"):
        dry_runs.dry_run(model=MODEL, version="2", policy=RAMP, now=large.now)
    assert dry_runs.dry_run(model=MODEL, version="2", policy=RAMP, now=large.now) is None
    assert do(large, dry_runs.JOB_KIND, dry_runs.answer) == 1
    assert dry_runs.dry_run(model=MODEL, version="2", policy=RAMP, now=large.now) is not None


def test_experiment_dry_run__large_fleet__is_counted_by_a_job(large: Story) -> None:
    spec: dict[str, Any] = {
        "arms": [{"name": "old", "version": "1"}, {"name": "new", "version": "2"}],
        "control": "old",
    }
    spec |= {"success": {"accuracy": {"effect_points": 5}}}
    drafted = experiments.create(model=MODEL, spec=spec, actor="test", now=large.now)
    assert experiment_dry_runs.dry_run(experiment_id=drafted.id, now=large.now) is None
    assert do(large, experiment_dry_runs.JOB_KIND, experiment_dry_runs.answer) == 1
    planned = experiments.plan(experiment_id=drafted.id, now=large.now)
    assert experiment_dry_runs.dry_run(experiment_id=drafted.id, now=large.now) == planned


def test_page_and_rest__large_fleet__wait_for_the_count(large: Story, admin_client: Client) -> None:
    body = {"model": MODEL, "version": "2", "policy": RAMP}

    def ask() -> Any:
        return admin_client.post("/api/v1/plan", body, content_type="application/json", headers={"host": "127.0.0.1"})

    first = ask()
    assert (first.status_code, first.json()["state"], first.headers["Retry-After"]) == (202, "counting", "1")
    form = {"model": MODEL, "version": "2", "preset": "trial", "hardware_classes": "", "filter": "", "changes": ""}
    page = admin_client.post("/rollouts/new", form, headers={"host": "127.0.0.1"})
    assert "The devices are being counted" in page.text
    # As workers do, who have clocks of their own.
    large.now = timezone.now()
    assert do(large, dry_runs.JOB_KIND, dry_runs.answer) == 2
    second = ask()
    assert (second.status_code, second.json()["eligible"]) == (200, second.json()["population"])
    page = admin_client.post("/rollouts/new", form, headers={"host": "127.0.0.1"})
    assert "devices would get it" in page.text


def test_start__large_fleet__plan_cannot_work__cancelled_with_the_reason(large: Story) -> None:
    few = {"filter": f'id in ("{large.devices[0].device_id}", "{large.devices[1].device_id}")'}
    rollout = large.start("2", {**RAMP, "population": few}, "s1")
    assert count(large) == 1
    ended = selectors.rollout(rollout.id)
    assert ended.state is RolloutState.CANCELLED
    assert ended.because.startswith("not started: ")
    assert "no phase has 4 treated and 8 control devices" in ended.because
    assert len(assignments.rules(MODEL)) == 1
    assert count(large) == 0


def test_start__large_fleet__contradictory_policy__refused_at_once(large: Story) -> None:
    with pytest.raises(InvalidInputError, match="expected rising shares"):
        large.start("2", {**RAMP, "phases": [{"share": 0.5}, {"share": 0.25}]})
    assert len(selectors.rollouts(model=MODEL)) == 1


def test_start__large_fleet__another_rollout_offers__conflicts_at_once_or_when_counted(large: Story) -> None:
    large.push("3")
    first, second = large.start("2", RAMP, fleet_plan.SEED_BETTER), large.start("3", RAMP, fleet_plan.SEED_BETTER)
    assert count(large) == 2
    assert (state_of(first), state_of(second)) == (RolloutState.RUNNING, RolloutState.CANCELLED)
    assert "another rollout" in selectors.rollout(second.id).because
    with pytest.raises(ConflictError, match="another rollout"):
        large.start("3", RAMP)


def test_start__large_fleet__version_revoked_before_it_is_counted__cancelled(large: Story) -> None:
    rollout = large.start("2", RAMP, fleet_plan.SEED_BETTER)
    Version.objects.filter(label="2").update(state="revoked")
    assert count(large) == 1
    ended = selectors.rollout(rollout.id)
    assert (ended.state, ended.because) == (
        RolloutState.CANCELLED,
        "not started: expected a published version, got 2 revoked",
    )


def test_start__large_fleet__stopped_before_it_is_counted__begins_when_the_stop_is_lifted(large: Story) -> None:
    rollout = large.start("2", RAMP, fleet_plan.SEED_BETTER)
    stops.stop(scope=MODEL, reason="smoke", actor="user:anna", now=large.now)
    assert count(large) == 1
    assert state_of(rollout) is RolloutState.SCHEDULED
    with pytest.raises(ConflictError, match="smoke"):
        large.start("2", {**RAMP, "priority": 1})
    assert large.tick() == ()
    stops.lift(scope=MODEL, reason="", actor="user:anna", now=large.now)
    assert large.tick() == ()  # it asks for the count again
    assert count(large) == 1
    assert state_of(rollout) is RolloutState.RUNNING


def test_start__large_fleet__somebody_speaks_while_it_is_counted__is_not_cancelled(
    large: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout = large.start("2", RAMP, fleet_plan.SEED_BETTER)

    def slow(**asked: Any) -> Population:
        monkeypatch.setattr(starting, "population", population)
        services.override_quiet(rollout_id=rollout.id, actor="eve", reason="it is urgent", now=large.now)
        return population(**asked)

    monkeypatch.setattr(starting, "population", slow)
    assert count(large) == 1
    assert state_of(rollout) is RolloutState.SCHEDULED
    large.tick()
    assert count(large) == 1
    assert state_of(rollout) is RolloutState.RUNNING


def test_cancel__before_it_is_counted__never_begins(large: Story) -> None:
    rollout = large.start("2", RAMP, fleet_plan.SEED_BETTER)
    services.cancel(rollout_id=rollout.id, actor="eve", reason="", now=large.now)
    assert count(large) == 1
    assert state_of(rollout) is RolloutState.CANCELLED


def test_advance__large_fleet__nothing_is_judged_before_the_count(large: Story) -> None:
    rollout = large.start("2", RAMP, fleet_plan.SEED_BETTER)
    count(large)
    large.check()
    services.advance(rollout_id=rollout.id, actor="eve", reason="", now=large.now)
    large.check()
    assert large.running() == {"1": 8, "2": 8}
    large.measure({"1": 0.84, "2": 0.93})
    assert large.tick() == ()
    gates = selectors.gates(rollout.id, now=large.now)
    assert (gates.sentence, gates.notes) == (UNCOUNTED, (UNCOUNTED,))
    assert count(large) == 1
    counts = selectors.phases(rollout.id)[1].counts
    assert (counts.treated, counts.control) == (8, 8)
    assert [item.action for item in large.tick()] == ["advance"]


def test_conductor_advances__large_fleet__asks_for_the_count(large: Story) -> None:
    rollout = large.start("2", RAMP, fleet_plan.SEED_BETTER)
    count(large)
    large.check()
    large.measure({"1": 0.84, "2": 0.93})
    assert [item.action for item in large.tick()] == ["advance"]
    assert selectors.rollout(rollout.id).phase == 1
    assert count(large) == 1
    assert selectors.phases(rollout.id)[1].counts.treated == 8


def test_count__job_failed_for_good__is_asked_for_again(large: Story) -> None:
    rollout = large.start("2", RAMP, fleet_plan.SEED_BETTER)
    count(large)
    services.advance(rollout_id=rollout.id, actor="eve", reason="", now=large.now)
    job = jobs.claim(kinds=[services.JOB_KIND], owner="w", lease_s=60, now=large.now)
    assert job is not None
    jobs.fail(job=job, error="it broke", now=large.now, permanent=True)
    assert large.tick() == ()
    assert count(large) == 1


def test_count__never_done__held_at_the_deadline(large: Story) -> None:
    rollout = large.start("2", RAMP, fleet_plan.SEED_BETTER)
    count(large)
    services.advance(rollout_id=rollout.id, actor="eve", reason="", now=large.now)
    large.pass_time(61)
    (decision,) = large.tick()
    assert (decision.action, decision.verdict) == ("hold", "inconclusive")
    assert decision.sentence == f"at the deadline: {UNCOUNTED}"


def test_count__rollout_moved_on__left_alone(large: Story) -> None:
    rollout = large.start("2", RAMP, fleet_plan.SEED_BETTER)
    count(large)
    for _ in range(2):
        services.advance(rollout_id=rollout.id, actor="eve", reason="", now=large.now)
    assert count(large) == 2
    uncounted, counted = selectors.phases(rollout.id)[1:]
    assert (uncounted.counts.treated, counted.counts.treated) == (0, 16)


def test_page__rollout_that_is_not_counted_yet__is_shown(large: Story, admin_client: Client) -> None:
    rollout = large.start("2", RAMP, fleet_plan.SEED_BETTER)
    shown = admin_client.get(f"/rollouts/{rollout.id}", headers={"host": "127.0.0.1"})
    assert shown.status_code == 200
    assert "when the devices of vision.digits are counted" in shown.content.decode()
    count(large)
    services.advance(rollout_id=rollout.id, actor="eve", reason="", now=large.now)
    shown = admin_client.get(f"/rollouts/{rollout.id}", headers={"host": "127.0.0.1"})
    assert "devices are being counted" in shown.content.decode()
