"""The pages of experiments in a real Chromium: list, one that runs, one that was won, and the questions that they ask."""

from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from playwright.sync_api import Browser
from pytest_django.live_server_helper import LiveServer

from fleet.apps.experiments import conducting, selectors, services
from fleet.apps.experiments.models import Experiment
from fleet.apps.registry import services as registry
from tests.ui.conftest import LOOKS, PASSWORD, open_as
from tests.ui.story import HOLDER, MODEL, Story
from tests.ui.test_pages import shoot
from tests.ui.watching import Watch

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

SPEC: dict[str, Any] = {
    "arms": [
        {"name": "champion", "version": "1", "weight": 2},
        {"name": "relabelled", "version": "2"},
        {"name": "next-batch", "version": "3"},
    ],
    "success": {"accuracy": {"effect_points": 2, "min_labels_per_device": 20}},
    "guardrails": {
        "latency": {"slow_ms": 50, "margin_points": 3, "min_inferences_per_device": 20},
        "errors": {"margin_points": 2, "min_inferences_per_device": 20},
    },
    "min_duration_s": 400,
    "duration_s": 3_600,
    "delta_wait_s": 0,
}


def told_story(size: int = 48) -> tuple[Story, str]:
    """A fleet on version 1 with three versions, and an experiment of four looks whose minimum is not over."""
    story = Story(timezone.now(), size=size, accuracy={"1": 0.86, "2": 0.93, "3": 0.865})
    story.pipeline.set_up(story.now)
    story.enrol()
    story.pipeline.push(1, story.now)
    story.complete("1")
    for number in (2, 3):
        story.pipeline.push(number, story.now)
    drafted = services.create(model=MODEL, spec=SPEC, actor="ada", now=story.now)
    services.start(experiment_id=drafted.id, actor="ada", now=story.now, seed="e")
    for _ in range(4):
        story.everybody()
        conducting.tick(now=story.now, holder=HOLDER)
    assert len(selectors.looks(drafted.id)) == 4
    return story, drafted.id


def test_experiment_pages__running_won_and_promoted__are_sound_in_every_look(
    live_server: LiveServer, browser: Browser, screens: Path, watch: Watch
) -> None:
    User.objects.create_superuser("ada", password=PASSWORD)
    story, experiment = told_story()
    page = open_as(browser, live_server.url, "ada", "light", watch)
    shoot(page, watch, f"{live_server.url}/experiments/{experiment}", "experiment-running", "light", screens)
    assert page.get_by_text("The arms are comparable.").is_visible()
    assert page.get_by_role("link", name="Extend").is_visible()
    page.context.close()
    for _ in range(3):
        story.everybody()
        conducting.tick(now=story.now, holder=HOLDER)
    assert selectors.experiment(experiment).winner == "relabelled"
    pages = {
        "experiments": "/experiments",
        "experiment-won": f"/experiments/{experiment}",
        "experiment-promote": f"/experiments/{experiment}/promote",
        "experiment-stop": f"/experiments/{experiment}/stop",
        "device-of-an-experiment": "/devices/sim-00003",
    }
    for look in LOOKS:
        page = open_as(browser, live_server.url, "ada", look, watch)
        for name, path in pages.items():
            shoot(page, watch, f"{live_server.url}{path}", name, look, screens)
        page.context.close()
    page = open_as(browser, live_server.url, "ada", "light", watch)
    page.goto(f"{live_server.url}/experiments/{experiment}")
    page.get_by_role("link", name="Promote").click()
    page.get_by_label("Reason").fill("better on every class")
    page.get_by_label("Policy").select_option("manual")
    page.get_by_role("button", name="Promote").click()
    page.wait_for_url(f"{live_server.url}/experiments/{experiment}")
    page.get_by_role("link", name="Rollout of the winner").click()
    assert page.get_by_role("heading", level=1).inner_text().startswith(MODEL)
    page.context.close()
    assert watch.problems == [], "\n".join(watch.problems)


def test_experiment_page__devices_on_the_wrong_arms__says_so_before_any_figure(
    live_server: LiveServer, browser: Browser, screens: Path, watch: Watch
) -> None:
    User.objects.create_superuser("ada", password=PASSWORD)
    _, experiment = told_story()
    row = Experiment.objects.get(pk=experiment)
    row.spec["arms"][0]["weight"] = 40
    row.save()
    page = open_as(browser, live_server.url, "ada", "light", watch)
    shoot(page, watch, f"{live_server.url}/experiments/{experiment}", "experiment-mismatch", "light", screens)
    alert = page.get_by_role("alert")
    assert "The arms are not comparable." in alert.inner_text()
    page.context.close()


def test_experiment_page__shadow__says_that_nobody_is_served(
    live_server: LiveServer, browser: Browser, screens: Path, watch: Watch
) -> None:
    User.objects.create_superuser("ada", password=PASSWORD)
    story = Story(timezone.now(), size=12, accuracy={"1": 0.86})
    story.pipeline.set_up(story.now)
    story.enrol()
    story.pipeline.push(1, story.now)
    story.complete("1")
    story.pipeline.push(2, story.now)
    spec = {
        "arms": [{"name": "champion", "version": "1", "weight": 0}, {"name": "candidate", "version": "2"}],
        "shadow": {},
        "success": {"accuracy": {"effect_points": 2}},
        "guardrails": {"agreement": {"min_share": 0.9}},
    }
    drafted = services.create(model=MODEL, spec=spec, actor="ada", now=story.now)
    services.start(experiment_id=drafted.id, actor="ada", now=story.now, seed="e")
    page = open_as(browser, live_server.url, "ada", "light", watch)
    shoot(page, watch, f"{live_server.url}/experiments/{drafted.id}", "experiment-shadow", "light", screens)
    assert page.get_by_text("Nobody is served the candidate.").is_visible()
    assert page.get_by_text("The arms are comparable.").count() == 0
    page.context.close()
    assert watch.problems == [], "\n".join(watch.problems)


def test_experiment_page__waits_for_approval__another_person_gives_it_there(
    live_server: LiveServer, browser: Browser, screens: Path, watch: Watch
) -> None:
    User.objects.create_superuser("ada", password=PASSWORD)
    story = Story(timezone.now(), size=48, accuracy={"1": 0.86})
    story.pipeline.set_up(story.now)
    story.enrol()
    story.pipeline.push(1, story.now)
    story.complete("1")
    for number in (2, 3):
        story.pipeline.push(number, story.now)
    registry.set_namespace(name=MODEL.partition(".")[0], approvals=1, actor="root", now=story.now)
    drafted = services.create(model=MODEL, spec=SPEC, actor="bea", identity="user#x", now=story.now)
    services.start(experiment_id=drafted.id, actor="bea", identity="user#x", now=story.now, seed="e")
    page = open_as(browser, live_server.url, "ada", "light", watch)
    shoot(page, watch, f"{live_server.url}/experiments/{drafted.id}", "experiment-approval", "light", screens)
    assert page.get_by_text("Nobody has approved it yet").is_visible()
    page.get_by_role("link", name="Approve").click()
    page.get_by_label("Reason").fill("read the specification")
    page.get_by_role("button", name="Approve").click()
    page.wait_for_url(f"{live_server.url}/experiments/{drafted.id}")
    assert page.get_by_text("read the specification").first.is_visible()
    assert selectors.experiment(drafted.id).state == "running"
    page.context.close()
    assert watch.problems == [], "\n".join(watch.problems)
