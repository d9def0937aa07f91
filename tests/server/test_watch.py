"""Whose silence is compared: both sides, chosen once per phase, on both databases."""

from typing import Any

import pytest

from fleet.apps.jobs import selectors as queued
from fleet.apps.jobs import services as jobs
from fleet.apps.rollouts import selectors, services, watch
from fleet.apps.rollouts.models import PhaseRun, Rollout, Watched
from fleet.demo import fleet_plan
from fleet.domain.policy import RolloutPolicy
from fleet.domain.verdicts import Verdict
from tests.server.catalogue import make_model
from tests.server.story import Story

pytestmark = pytest.mark.django_db

GATES = {
    "install_failures": {"max_share": 0.9, "min_installed_share": 0.1},
    "silence": {"grace_s": 30, "max_share": 0.2},
}
RAMP: dict[str, Any] = {
    "phases": [{"share": share, "min_duration_s": 2, "deadline_s": 600} for share in (0.25, 0.5, 1.0)],
    "gates": GATES,
    "allow_delta": False,
}


@pytest.fixture
def story() -> Story:
    make_model()
    found = Story()
    found.push("1")
    found.start("1", {"preset": "all-at-once", "phases": [{"share": 1.0, "deadline_s": 60}], "allow_delta": False})
    found.check()
    found.pass_time(2)
    assert [item.action for item in found.tick()] == ["complete"]
    found.push("2")
    return found


def work(story: Story) -> None:
    """What a worker does with the queue's `watch` jobs."""
    while (job := jobs.claim(kinds=[watch.JOB_KIND], owner="test", lease_s=60, now=story.now)) is not None:
        watch.begin(job.payload, story.now)
        assert jobs.finish(job=job, now=story.now)


def silence(story: Story, rollout_id: str) -> Any:
    judged = selectors.gates(rollout_id, now=story.now)
    return next(gate for gate in judged.gates if gate["name"] == "silence")


def test_watch__phase_with_a_control__both_sides_are_chosen_once(story: Story) -> None:
    rollout = story.start("2", RAMP, seed=fleet_plan.SEED_BETTER)
    work(story)
    evidence = silence(story, rollout.id)["evidence"]
    assert evidence["watched"] == {"treated": {"devices": 4, "silent": 0}, "control": {"devices": 8, "silent": 0}}
    watch.begin({"rollout": rollout.id, "phase": 0}, story.now)
    assert Watched.objects.count() == 12
    watch.begin({"rollout": rollout.id, "phase": 1}, story.now)  # a job of a phase that is not
    assert Watched.objects.count() == 12


@pytest.mark.parametrize(("devices", "jobs_asked"), [(15_000, 0), (50_000, 1)])
def test_watch__small_share_of_many_devices__is_a_control(story: Story, devices: int, jobs_asked: int) -> None:
    rollout = story.start("2", RAMP, seed=fleet_plan.SEED_BETTER)
    work(story)
    PhaseRun.objects.filter(rollout_id=rollout.id).update(eligible=devices)
    small = RolloutPolicy.parse({**RAMP, "control_share": 0.02})
    watch.ask(Rollout.objects.get(pk=rollout.id), small, 1, story.now)
    assert len(queued.jobs(kind=watch.JOB_KIND, state="queued")) == jobs_asked


@pytest.mark.parametrize(("outage", "verdict"), [(False, Verdict.WAIT), (True, Verdict.PASS)])
def test_silence__of_the_treated__is_told_from_an_outage_of_all(
    story: Story, *, outage: bool, verdict: Verdict
) -> None:
    rollout = story.start("2", RAMP, seed=fleet_plan.SEED_BETTER)
    work(story)
    story.check()
    treated = set(Watched.objects.filter(side="treated").values_list("device_id", flat=True))
    story.pass_time(60)
    if not outage:
        story.check(only=[device for device in story.devices if device.device_id not in treated])
    # The devices installed it and said so; what they owe now is a sign of life.
    found = silence(story, rollout.id)
    assert found["evidence"]["watched"]["treated"] == {"devices": 4, "silent": 4}
    assert found["evidence"]["watched"]["control"]["silent"] == (8 if outage else 0)
    assert found["verdict"] == verdict.value


def test_watch__rollout_is_over__its_devices_are_forgotten_by_the_next_job(story: Story) -> None:
    rollout = story.start("2", RAMP, seed=fleet_plan.SEED_BETTER)
    work(story)
    assert Watched.objects.exists()
    services.cancel(rollout_id=rollout.id, actor="test", reason="", now=story.now)
    watch.begin({"rollout": rollout.id, "phase": 0}, story.now)
    assert not Watched.objects.exists()
