"""Every page in a real Chromium, on a fleet with a past: light, dark and on a phone. Screenshots go to var/screens/.

No page may log an error, ask another host, leave a control without a name, or show a text that is hard to read.
"""

from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from playwright.sync_api import Browser, Page
from pytest_django.live_server_helper import LiveServer

from fleet.apps.rollouts import selectors as rollouts
from tests.ui.conftest import LOOKS, PASSWORD, open_as
from tests.ui.story import MODEL, Story
from tests.ui.watching import Watch, inspect

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


def shoot(page: Page, watch: Watch, url: str, name: str, look: str, screens: Path) -> None:
    watch.at = f"{name} ({look})"
    response = page.goto(url, wait_until="load")
    assert response is not None
    assert response.status < 400, f"{url}: {response.status}"
    page.evaluate("document.fonts.ready")
    watch.problems += [f"{watch.at}: {problem}" for problem in inspect(page)]
    page.screenshot(path=screens / f"{name}-{look}.png", full_page=True)


def test_pages__of_a_fleet_with_a_past__are_sound_in_every_look(
    live_server: LiveServer, browser: Browser, screens: Path, watch: Watch
) -> None:
    User.objects.create_superuser("ada", password=PASSWORD)
    told = Story(timezone.now()).tell()
    failed = next(item for item in rollouts.decisions(told["3"]) if item.action == "revert")
    passed = next(item for item in rollouts.decisions(told["2"]) if item.action == "advance")
    pages = {
        "fleet": "/",
        "models": "/models",
        "model": f"/models/{MODEL}",
        "version": f"/models/{MODEL}/versions/2",
        "version-unpublished": f"/models/{MODEL}/versions/5",
        "rollouts": "/rollouts",
        "rollout-running": f"/rollouts/{told['4']}",
        "rollout-reverted": f"/rollouts/{told['3']}",
        "rollout-completed": f"/rollouts/{told['2']}",
        "rollout-revert": f"/rollouts/{told['4']}/revert",
        "decision-failed": f"/rollouts/{told['3']}/decisions/{failed.id}",
        "decision-passed": f"/rollouts/{told['2']}/decisions/{passed.id}",
        "devices": "/devices",
        "devices-filtered": f"/devices?model={MODEL}&version=4&class=edge-mini",
        "device": "/devices/sim-00003",
        "enrol": "/enrol",
        "audit": "/audit",
    }
    for look in LOOKS:
        page = open_as(browser, live_server.url, "ada", look, watch)
        for name, path in pages.items():
            shoot(page, watch, f"{live_server.url}{path}", name, look, screens)
        page.context.close()
    assert watch.problems == [], "\n".join(watch.problems)


def test_pages__of_an_empty_fleet__say_what_to_do_next(
    live_server: LiveServer, browser: Browser, screens: Path, watch: Watch
) -> None:
    User.objects.create_superuser("ada", password=PASSWORD)
    pages = {"fleet": "/", "models": "/models", "rollouts": "/rollouts", "devices": "/devices", "audit": "/audit"}
    for look in LOOKS:
        page = open_as(browser, live_server.url, "ada", look, watch)
        for name, path in {**pages, "enrol": "/enrol"}.items():
            shoot(page, watch, f"{live_server.url}{path}", f"empty-{name}", look, screens)
            assert page.get_by_text("Set-up is not finished").is_visible()
        page.context.close()
    assert watch.problems == [], "\n".join(watch.problems)


def test_login_page__in_every_look__is_sound(
    live_server: LiveServer, browser: Browser, screens: Path, watch: Watch
) -> None:
    for look, options in LOOKS.items():
        context = browser.new_context(**options)
        page = context.new_page()
        watch.attach(page, live_server.url)
        shoot(page, watch, f"{live_server.url}/login", "login", look, screens)
        page.context.close()
    assert watch.problems == [], "\n".join(watch.problems)
