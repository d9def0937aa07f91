"""The page that starts rollouts: the dry run first, then the start; what is wrong is told beside its field."""

from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone
from playwright.sync_api import Browser, expect
from pytest_django.live_server_helper import LiveServer

from fleet.apps.audit import selectors as audit
from fleet.apps.jobs import services as jobs
from fleet.apps.registry import services as registry
from fleet.apps.rollouts import dry_runs, starting
from fleet.apps.rollouts import selectors as rollouts
from fleet.apps.rollouts.models import Rollout
from tests.ui.conftest import LOOKS, PASSWORD, open_as
from tests.ui.story import MODEL, Story
from tests.ui.test_pages import shoot
from tests.ui.watching import Watch

FORM = {"model": MODEL, "version": "1", "preset": "trial", "hardware_classes": "", "filter": "", "changes": ""}


def fleet(size: int = 6, away: int = 1) -> Story:
    story = Story(timezone.now(), size=size, away=away)
    story.pipeline.set_up(story.now)
    story.enrol()
    story.pipeline.push(1, story.now)
    return story


@pytest.fixture
def operator(client: Client) -> Client:
    client.force_login(User.objects.create_user("ada", is_staff=True))
    return client


@pytest.mark.django_db
def test_dry_run__says_who_gets_what_and_who_nothing__and_starts_nothing(operator: Client) -> None:
    fleet()
    page = operator.post("/rollouts/new", {**FORM, "filter": 'attributes.site == "oslo"'})
    assert page.status_code == 200
    assert "devices would get it" in page.text
    assert "onnx-fp32-any" in page.text
    assert "not seen within 7 days" in page.text
    assert "outside the filter" in page.text
    assert not Rollout.objects.exists()


@pytest.mark.django_db
def test_start__after_the_dry_run__what_was_seen_begins(operator: Client) -> None:
    fleet()
    seen = {**FORM, "changes": '{"pacing": {"in_flight": 2}}', "is_seen": "on"}
    operator.post("/rollouts/new", seen)
    (begun,) = rollouts.rollouts(model=MODEL, limit=5)
    assert (begun.state, begun.version, begun.created_by) == ("running", "1", "user:ada")
    assert begun.policy["pacing"]["in_flight"] == 2  # type: ignore[index]
    again = operator.post("/rollouts/new", seen)
    assert again.status_code == 422
    assert "same priority" in again.text


@pytest.mark.django_db
def test_start__asks_for_approval__their_own_is_not_enough(operator: Client) -> None:
    fleet()
    registry.set_namespace(name=MODEL.partition(".")[0], approvals=1, actor="root", now=timezone.now())
    operator.post("/rollouts/new", {**FORM, "is_seen": "on"})
    (waiting,) = rollouts.rollouts(model=MODEL, limit=5)
    assert waiting.state == "awaiting_approval"
    form = {"reason": "mine", "revision": waiting.revision}
    assert operator.post(f"/rollouts/{waiting.id}/approve", form).status_code == 422


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"filter": "hw = 'a'"}, "column 4"),
        ({"version": "9"}, "expected a version or alias"),
        ({"version": "champion"}, "expected a version or alias"),
        ({"changes": "{"}, "Expected JSON"),
        ({"changes": "[]"}, "Expected an object"),
        ({"changes": '{"gate": {}}'}, "got gate"),
        ({"changes": '{"population": 3}'}, "Expected an object for population"),
        ({"model": "no.such"}, "valid choice"),
        ({"preset": "yolo"}, "valid choice"),
    ],
    ids=["filter", "version", "alias", "json", "list", "field", "population", "model", "preset"],
)
@pytest.mark.parametrize("seen", ["", "on"], ids=["dry run", "start"])
def test_form__something_is_wrong__told_beside_it_and_nothing_starts(
    operator: Client, changes: dict[str, str], told: str, seen: str
) -> None:
    fleet(size=2, away=0)
    page = operator.post("/rollouts/new", {**FORM, **changes, "is_seen": seen})
    assert page.status_code == 422
    assert told in page.text
    assert not Rollout.objects.exists()
    assert not [item for item in audit.entries() if item.action.startswith("rollout.")]


@pytest.mark.django_db
def test_form__reader__may_not(client: Client) -> None:
    client.force_login(User.objects.create_user("rea"))
    assert client.get("/rollouts/new").status_code == 403
    assert "Start a rollout" not in client.get("/rollouts").text


@pytest.mark.django_db
def test_form__nothing_was_pushed__says_what_to_do(operator: Client) -> None:
    assert "modelfleet push" in operator.get("/rollouts/new").text


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_start__in_a_browser__from_the_list_to_the_cockpit(
    live_server: LiveServer, browser: Browser, watch: Watch, screens: Path
) -> None:
    User.objects.create_superuser("ada", password=PASSWORD)
    fleet(size=12, away=2)
    for look in LOOKS:
        page = open_as(browser, live_server.url, "ada", look, watch)
        shoot(page, watch, f"{live_server.url}/rollouts/new", "start", look, screens)
        page.get_by_label("Model").select_option(MODEL)
        page.get_by_label("Version or alias").fill("1")
        page.get_by_label("Policy", exact=True).select_option("manual")
        page.get_by_label("Filter").fill('attributes.site in ("oslo", "lyon")')
        page.get_by_role("button", name="Who would get it?").click()
        expect(page.get_by_role("heading", name="Who gets nothing, and why")).to_be_visible(timeout=20_000)
        page.screenshot(path=screens / f"start-planned-{look}.png", full_page=True)
        page.get_by_label("Filter").fill("hw = 'a'")
        page.get_by_role("button", name="Who would get it?").click()
        expect(page.get_by_text("column 4")).to_be_visible(timeout=20_000)
        page.screenshot(path=screens / f"start-refused-{look}.png", full_page=True)
        page.get_by_label("Filter").fill("")
        page.get_by_label("Policy", exact=True).select_option("trial")
        page.get_by_role("button", name="Who would get it?").click()
        if look == "light":
            page.get_by_role("button", name="Start the rollout").click()
            expect(page.get_by_text("is running.")).to_be_visible(timeout=20_000)
        page.context.close()
    # A refused form is answered with 422, which the browser's console calls an error.
    assert [problem for problem in watch.problems if "422" not in problem] == []


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_dry_run__large_fleet__the_answer_comes_by_itself(
    live_server: LiveServer, browser: Browser, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "COUNTED_AT_ONCE", 3)
    User.objects.create_superuser("ada", password=PASSWORD)
    fleet(size=6, away=0)
    page = open_as(browser, live_server.url, "ada", "light", watch)
    page.goto(f"{live_server.url}/rollouts/new")
    page.get_by_label("Model").select_option(MODEL)
    page.get_by_label("Version or alias").fill("1")
    page.get_by_role("button", name="Who would get it?").click()
    expect(page.get_by_role("heading", name="The devices are being counted")).to_be_visible(timeout=20_000)
    job = jobs.claim(kinds=[dry_runs.JOB_KIND], owner="w", lease_s=60, now=timezone.now())
    assert job is not None
    dry_runs.answer(job.payload, timezone.now())
    assert jobs.finish(job=job, now=timezone.now())
    expect(page.get_by_role("heading", name="Who gets nothing, and why")).to_be_visible(timeout=20_000)
    page.get_by_role("button", name="Start the rollout").click()
    expect(page.get_by_text("is scheduled.")).to_be_visible(timeout=20_000)
    page.context.close()
    assert watch.problems == []
