"""What people do on the pages, in a real browser: intervene, enrol, choose a theme, use the keyboard, lose the server."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from playwright.sync_api import Browser, Page, expect
from pytest_django.live_server_helper import LiveServer

from fleet.apps.rollouts import selectors as rollouts
from fleet.apps.rollouts import services
from tests.ui.conftest import PASSWORD, open_as
from tests.ui.story import Story
from tests.ui.watching import Watch, inspect

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


@pytest.fixture
def operator() -> None:
    User.objects.create_superuser("ada", password=PASSWORD)


@pytest.fixture
def page(operator: None, live_server: LiveServer, browser: Browser, watch: Watch) -> Iterator[Page]:
    page = open_as(browser, live_server.url, "ada", "light", watch)
    yield page
    page.context.close()


def test_halt_and_resume__by_an_operator__say_what_they_touch_and_are_on_record(
    page: Page, live_server: LiveServer, watch: Watch
) -> None:
    rollout_id = Story(timezone.now(), size=3, away=0).first_rollout()
    page.goto(f"{live_server.url}/rollouts/{rollout_id}")
    page.get_by_role("link", name="Halt…").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Halt the rollout?")
    expect(page.get_by_text("No device is offered the version any more")).to_be_visible()
    page.get_by_label("Reason").fill("line 3 reports strange scores")
    page.get_by_role("button", name="Halt").click()
    expect(page.get_by_text("Halt the rollout: done.")).to_be_visible()
    expect(page.get_by_text("line 3 reports strange scores").first).to_be_visible()
    assert rollouts.rollout(rollout_id).state == "held"
    page.get_by_role("link", name="Resume…").click()
    page.get_by_label("Reason").fill("it was the camera")
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_text("Resume the rollout: done.")).to_be_visible()
    assert rollouts.rollout(rollout_id).state == "running"
    assert [item.actor for item in rollouts.decisions(rollout_id)][:2] == ["user:ada", "user:ada"]
    assert watch.problems == []


def test_cockpit__left_open__follows_the_rollout_by_itself(page: Page, live_server: LiveServer, watch: Watch) -> None:
    rollout_id = Story(timezone.now(), size=3, away=0).first_rollout()
    page.goto(f"{live_server.url}/rollouts/{rollout_id}")
    page.evaluate("window.stayed = true")
    services.hold(rollout_id=rollout_id, actor="user:bea", reason="from elsewhere", now=timezone.now())
    expect(page.get_by_text("from elsewhere").first).to_be_visible(timeout=8_000)
    assert page.evaluate("window.stayed") is True
    assert watch.problems == []


def test_live_page__server_goes_away_and_comes_back__says_so_and_recovers(
    page: Page, live_server: LiveServer, watch: Watch, screens: Path
) -> None:
    page.goto(f"{live_server.url}/")
    lost = page.get_by_text("The server does not answer.")
    expect(lost).to_be_hidden()
    page.route("**/*", lambda route: route.abort())
    expect(lost).to_be_visible(timeout=10_000)
    page.screenshot(path=screens / "connection-lost-light.png")
    page.unroute("**/*")
    expect(lost).to_be_hidden(timeout=10_000)


def test_live_page__session_ends__goes_to_the_login_page(page: Page, live_server: LiveServer) -> None:
    page.goto(f"{live_server.url}/")
    page.context.clear_cookies()
    expect(page.get_by_role("heading", name="Log in")).to_be_visible(timeout=10_000)


def test_claim__made_on_the_page__shows_a_command_to_copy(
    page: Page, live_server: LiveServer, watch: Watch, screens: Path
) -> None:
    story = Story(timezone.now(), size=0, away=0)
    story.pipeline.set_up(story.now)
    page.goto(f"{live_server.url}/enrol")
    page.get_by_label("Device id").fill("press-07")
    page.get_by_label("Hardware class").fill("edge-std")
    page.get_by_label("Attributes").fill("site=oslo")
    page.get_by_role("button", name="Make the claim").click()
    command = page.locator("#enrol-command")
    expect(command).to_contain_text("modelfleet-device enroll")
    expect(command).to_contain_text("--token mfc_")
    assert inspect(page) == []
    page.screenshot(path=screens / "enrol-claimed-light.png", full_page=True)
    page.get_by_label("Device id").fill("Not A Name")
    page.get_by_label("Hardware class").fill("edge-std")
    page.get_by_role("button", name="Make the claim").click()
    expect(page.get_by_text("No claim was made.")).to_be_visible()
    assert inspect(page) == []
    page.screenshot(path=screens / "enrol-refused-light.png", full_page=True)
    assert [problem for problem in watch.problems if "422" not in problem] == []


def test_theme__chosen_by_hand__stays(page: Page, live_server: LiveServer, watch: Watch) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    page.goto(f"{live_server.url}/devices")
    before = page.evaluate(ground)
    page.get_by_role("button", name="Use the dark theme").click()
    dark = page.evaluate(ground)
    assert dark != before
    page.goto(f"{live_server.url}/audit")
    assert page.evaluate(ground) == dark
    page.get_by_role("button", name="Use the light theme").click()
    assert page.evaluate(ground) == before
    assert watch.problems == []


def test_keyboard__from_the_top_of_a_page__skips_to_the_content_and_reaches_every_link(
    page: Page, live_server: LiveServer
) -> None:
    page.goto(f"{live_server.url}/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.goto(f"{live_server.url}/")
    wanted = page.evaluate(
        "[...document.querySelectorAll('a[href], button, input, select')].filter((e) => e.checkVisibility()).length"
    )
    reached = set()
    for _ in range(wanted + 3):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "[...document.querySelectorAll('a[href], button, input, select')].indexOf(document.activeElement)"
            )
        )
    assert len(reached - {-1}) == wanted


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_error_pages__in_every_look__are_sound(
    operator: None, live_server: LiveServer, browser: Browser, watch: Watch, screens: Path, look: str
) -> None:
    User.objects.create_user("rea", password=PASSWORD)
    page = open_as(browser, live_server.url, "rea", look, watch)
    for name, path in (("404", "/no-such-page"), ("403", "/enrol")):
        page.goto(f"{live_server.url}{path}")
        expect(page.get_by_text(name, exact=True)).to_be_visible()
        assert inspect(page) == []
        page.screenshot(path=screens / f"error-{name}-{look}.png")


def test_administration__in_the_browser__works_under_its_own_policy(
    page: Page, live_server: LiveServer, watch: Watch
) -> None:
    Story(timezone.now(), size=3, away=0).enrol()
    for path in ("/admin/", "/admin/devices/device/"):
        page.goto(f"{live_server.url}{path}")
        expect(page.locator("body")).to_be_visible()
    assert watch.problems == []


def test_quiet_hours__set_on_the_page__are_told_on_the_rollout_and_can_be_overridden(
    page: Page, live_server: LiveServer, watch: Watch, screens: Path
) -> None:
    rollout_id = Story(timezone.now(), size=3, away=0).first_rollout()
    namespace = rollouts.rollout(rollout_id).model.partition(".")[0]
    page.goto(f"{live_server.url}/rollouts")
    page.get_by_role("link", name="Namespaces").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Namespaces")
    page.get_by_role("link", name=namespace).click()
    page.get_by_label("Quiet hours").fill("daily 22:00-06:00 Mars/Base")
    page.get_by_role("button", name="Set the rules").click()
    expect(page.get_by_text("expected an IANA time zone such as Europe/Berlin, got 'Mars/Base'")).to_be_visible()
    now = timezone.now()
    words = f"daily {now - timedelta(hours=1):%H:%M}-{now - timedelta(hours=2):%H:%M} UTC"
    page.get_by_label("Quiet hours").fill(words)
    page.get_by_role("button", name="Set the rules").click()
    expect(page.get_by_text(f"The rules of {namespace} are set.")).to_be_visible()
    expect(page.get_by_text(words)).to_be_visible()
    inspect(page)
    page.screenshot(path=screens / "namespaces.png", full_page=True)
    page.goto(f"{live_server.url}/rollouts/{rollout_id}")
    expect(page.get_by_text("It does not start or go on by itself before.")).to_be_visible()
    page.screenshot(path=screens / "cockpit-quiet.png", full_page=True)
    page.get_by_role("link", name="Go on now…").click()
    page.get_by_label("Reason").fill("line 3 is waiting for it")
    page.get_by_role("button", name="Go on now").click()
    expect(page.get_by_text("Go on in quiet hours: done.")).to_be_visible()
    expect(page.get_by_text("It does not start or go on by itself before.")).to_have_count(0)
    assert rollouts.rollout(rollout_id).ignores_quiet_hours
    # The browser reports the refused form, which is what was asked for.
    assert [item for item in watch.problems if "422" not in item] == []
