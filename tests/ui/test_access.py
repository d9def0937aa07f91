"""Who gets which page, and what every answer tells the browser it may do."""

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError
from django.test import Client, RequestFactory
from django.urls import URLPattern
from django.utils import timezone
from django.views.defaults import server_error

from fleet.apps.registry import selectors as registry
from fleet.apps.rollouts import selectors as rollouts
from fleet.apps.rollouts import services
from fleet.apps.rollouts.models import Rollout
from fleet.apps.webhooks import selectors as webhooks
from fleet.entrypoints.ui import urls
from fleet.entrypoints.ui.content_security import ADMINISTRATION, STRICT
from tests.ui.story import MODEL, Story, policy

pytestmark = pytest.mark.django_db

OPEN_TO_EVERYBODY = {"login", "logout", "favicon"}
OPERATORS_ONLY = {"enrol", "act", "experiment-act", "namespace", "start-rollout", "stops", "webhooks", "webhook-act"}
ARGUMENTS = {
    "name": MODEL,
    "label": "1",
    "rollout_id": "r-000000000000",
    "decision_id": "1",
    "webhook_id": "1",
    "action": "revert",
    "device_id": "sim-00000",
}


def paths() -> dict[str, str]:
    """An address of every page, by the route's name."""
    found = {}
    for pattern in urls.urlpatterns:
        assert isinstance(pattern, URLPattern)
        route = str(pattern.pattern)
        for name, value in ARGUMENTS.items():
            route = route.replace(f"<str:{name}>", value).replace(f"<int:{name}>", value)
        found[str(pattern.name)] = f"/{route}"
    return found


@pytest.fixture
def reader(client: Client) -> Client:
    client.force_login(User.objects.create_user("rea"))
    return client


@pytest.fixture
def operator(client: Client) -> Client:
    client.force_login(User.objects.create_user("ada", is_staff=True))
    return client


@pytest.mark.parametrize(("name", "path"), [item for item in paths().items() if item[0] not in OPEN_TO_EVERYBODY])
def test_page__without_a_session__asks_to_log_in(client: Client, name: str, path: str) -> None:
    for response in (client.get(path), client.post(path)):
        assert response.status_code == 302
        assert response.headers["Location"].startswith("/login?next=")


@pytest.mark.parametrize(("name", "path"), [item for item in paths().items() if item[0] not in OPEN_TO_EVERYBODY])
def test_live_part__without_a_session__tells_the_page_to_reload(client: Client, name: str, path: str) -> None:
    response = client.get(path, headers={"HX-Request": "true"})
    assert (response.status_code, response.headers["HX-Refresh"]) == (401, "true")


@pytest.mark.parametrize("name", sorted(OPERATORS_ONLY))
def test_page_that_changes_things__for_a_reader__is_refused(reader: Client, name: str) -> None:
    for response in (reader.get(paths()[name]), reader.post(paths()[name])):
        assert response.status_code == 403
        assert "Only operators may do this" in response.text


@pytest.mark.parametrize(
    ("name", "path"), [item for item in paths().items() if item[0] not in OPEN_TO_EVERYBODY | OPERATORS_ONLY]
)
def test_page_that_shows_things__sent_a_form__is_not_allowed(operator: Client, name: str, path: str) -> None:
    assert operator.post(path).status_code == 405


@pytest.mark.parametrize("name", ["model", "version", "rollout", "decision", "act", "device"])
def test_page_of_something_unknown__is_not_there(operator: Client, name: str) -> None:
    response = operator.get(paths()[name])
    assert response.status_code == 404
    assert "Nothing here" in response.text


def test_form__without_its_token__changes_nothing() -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.create_user("ada", is_staff=True))
    response = client.post("/enrol", {"device_id": "press-01", "hardware_class": "edge", "expires_in_s": "3600"})
    assert response.status_code == 403
    assert "The form was too old" in response.text


def test_logging_out__by_a_link__does_nothing(reader: Client) -> None:
    assert reader.get("/logout").status_code == 405
    assert reader.get("/").status_code == 200
    reader.post("/logout")
    assert reader.get("/").status_code == 302


@pytest.mark.parametrize("path", ["/login", "/", "/devices", "/no-such-page"])
def test_answer__of_a_page__may_load_from_this_server_only(client: Client, path: str) -> None:
    assert client.get(path).headers["Content-Security-Policy"] == STRICT


def test_answer__of_the_administration__stays_on_this_origin(client: Client) -> None:
    assert client.get("/admin/login/").headers["Content-Security-Policy"] == ADMINISTRATION


def test_claim__made_on_the_page__is_shown_once_and_never_cached(operator: Client) -> None:
    story = Story(timezone.now(), size=0, away=0)
    story.pipeline.set_up(story.now)
    form = {"device_id": "press-01", "hardware_class": "edge", "attributes": "site=oslo", "expires_in_s": "3600"}
    made = operator.post("/enrol", form)
    assert "--token mfc_" in made.text
    assert "--pin " in made.text
    assert "no-store" in made.headers["Cache-Control"]
    assert "mfc_" not in operator.get("/enrol").text


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"device_id": "Press 01"}, "expected a device id"),
        ({"hardware_class": "?"}, "expected a class"),
        ({"attributes": "oslo"}, "Expected name=value"),
        ({"expires_in_s": "999"}, "Select a valid choice"),
        ({"device_id": ""}, "This field is required"),
    ],
)
def test_claim__with_a_slip__is_refused_beside_the_field(operator: Client, changed: dict[str, str], told: str) -> None:
    story = Story(timezone.now(), size=0, away=0)
    story.pipeline.set_up(story.now)
    form = {"device_id": "press-01", "hardware_class": "edge", "attributes": "", "expires_in_s": "3600", **changed}
    response = operator.post("/enrol", form)
    assert response.status_code == 422
    assert told in response.text
    assert "mfc_" not in response.text


def test_claim__before_roots_are_imported__is_not_offered(operator: Client) -> None:
    form = {"device_id": "press-01", "hardware_class": "edge", "expires_in_s": "3600"}
    response = operator.post("/enrol", form)
    assert "mfc_" not in response.text
    assert "Nothing to pin yet" in response.text


@pytest.mark.parametrize(
    "tail", ["?after=%00", "?version=x", "?before=-1", "?before=" + "9" * 40, "?class=" + "x" * 999]
)
@pytest.mark.parametrize("path", ["/devices", "/rollouts", "/audit", "/", f"/models/{MODEL}"])
def test_page__with_an_address_edited_by_hand__does_not_fail(operator: Client, path: str, tail: str) -> None:
    assert operator.get(path + tail).status_code in {200, 404}


@pytest.mark.parametrize("path", ["/devices/a%00b", "/models/%00", "/models/a/versions/%00", "/rollouts/%00"])
def test_page__of_a_name_with_nul__is_not_there(operator: Client, path: str) -> None:
    assert operator.get(path).status_code == 404


def test_intervention__after_the_rollout_moved_on__changes_nothing(operator: Client) -> None:
    story = Story(timezone.now(), size=3, away=0)
    rollout_id = story.first_rollout()
    seen = rollouts.rollout(rollout_id).revision
    assert operator.post(f"/rollouts/{rollout_id}/hold", {"reason": "a look", "revision": seen}).status_code == 302
    late = operator.post(f"/rollouts/{rollout_id}/revert", {"reason": "bad", "revision": seen})
    assert late.status_code == 422
    assert "Nothing was done" in late.text
    assert rollouts.rollout(rollout_id).state == "held"


def test_intervention__that_the_state_does_not_allow__leads_back_with_the_reason(operator: Client) -> None:
    story = Story(timezone.now(), size=3, away=0)
    rollout_id = story.first_rollout()
    response = operator.get(f"/rollouts/{rollout_id}/resume", follow=True)
    assert "not possible, it is running" in response.text


def test_intervention__last_phase_that_a_person_advances__is_completed_from_the_page(operator: Client) -> None:
    story = Story(timezone.now(), size=3, away=0)
    rollout_id = story.first_rollout()
    page = f"/rollouts/{rollout_id}"
    last = rollouts.rollout(rollout_id)
    assert (last.state, last.phase + 1) == ("running", last.phases)
    assert f'href="{page}/advance"' in operator.get(page).text
    asked = operator.get(f"{page}/advance").text
    assert "Complete the rollout now" in asked
    assert "it becomes the baseline" in asked
    said = {"reason": "looks good", "revision": last.revision}
    assert operator.post(f"{page}/advance", said).status_code == 302
    assert rollouts.rollout(rollout_id).state == "completed"


def test_intervention__revert_in_steps__says_so_and_can_be_hastened_once(operator: Client) -> None:
    story = Story(timezone.now(), size=3, away=0)
    rollout_id = story.first_rollout()
    page = f"/rollouts/{rollout_id}"
    row = Rollout.objects.get(pk=rollout_id)
    row.policy["revert"] = {"share_per_step": 0.1, "every_s": 600}
    row.save()
    assert "They go back in 10 steps, one each 600 s" in operator.get(f"{page}/revert").text
    services.revert(rollout_id=rollout_id, actor="eve", reason="", now=story.now)
    assert "Revert the rest at once" in operator.get(f"{page}/revert").text
    said = {"reason": "it burns", "revision": rollouts.rollout(rollout_id).revision}
    assert operator.post(f"{page}/revert", said).status_code == 302
    assert rollouts.rollout(rollout_id).steps_left == 0
    assert f'href="{page}/revert"' not in operator.get(page).text


def test_intervention__without_a_reason__is_not_done(operator: Client) -> None:
    story = Story(timezone.now(), size=3, away=0)
    rollout_id = story.first_rollout()
    form = {"reason": " ", "revision": rollouts.rollout(rollout_id).revision}
    assert operator.post(f"/rollouts/{rollout_id}/cancel", form).status_code == 422
    assert rollouts.rollout(rollout_id).state == "running"


def test_webhooks__administrator__adds_sees_the_secret_once_tests_and_removes(operator: Client) -> None:
    assert "Only administrators" in operator.get("/webhooks").text
    User.objects.update(is_superuser=True)
    wrong = operator.post("/webhooks", {"url": "ftp://x.org", "events": "*"})
    assert (wrong.status_code, "expected an address such as" in wrong.text) == (422, True)
    added = operator.post("/webhooks", {"url": "https://hooks.example.org/x", "events": "rollout.* stop.set"})
    assert added.status_code == 200
    assert "mfw_" in added.text
    page = operator.get("/webhooks").text
    assert "https://hooks.example.org/x" in page
    assert "mfw_" not in page
    (webhook,) = webhooks.webhooks()
    assert webhook.events == ("rollout.*", "stop.set")
    assert "webhook.test" in operator.post(f"/webhooks/{webhook.id}/test", follow=True).text
    assert "It is not told any more" in operator.post(f"/webhooks/{webhook.id}/remove", follow=True).text
    assert webhooks.webhooks() == ()


def test_emergency_stop__set_and_lifted_on_the_page__every_page_says_so(operator: Client) -> None:
    Story(timezone.now(), size=3, away=0).first_rollout()
    unknown = operator.post("/stops", {"scope": "nobody", "reason": "smoke"})
    assert unknown.status_code == 422
    assert "expected an existing namespace" in unknown.text
    operator.post("/stops", {"scope": "*", "reason": "smoke in hall 2"})
    for page in ("/", "/rollouts", "/stops"):
        assert "Everything is stopped" in operator.get(page).text
        assert "smoke in hall 2" in operator.get(page).text
    operator.post("/stops", {"scope": "*", "reason": "was the oven", "lift": "true"})
    assert "Everything is stopped" not in operator.get("/").text


def test_approval__asked_for__shown_and_given_by_another_person_on_the_page(operator: Client) -> None:
    story = Story(timezone.now(), size=3, away=0)
    story.pipeline.set_up(story.now)
    story.enrol()
    story.pipeline.push(1, story.now)
    rollout_id = story.start("1", {**policy(1.0, control_share=0.0), "approvals": 2})
    page = operator.get(f"/rollouts/{rollout_id}").text
    assert "awaiting approval" in page
    assert "Nobody has approved it yet" in page
    assert "After yours, 1 more are missing" in operator.get(f"/rollouts/{rollout_id}/approve").text
    form = {"reason": "read the card", "revision": rollouts.rollout(rollout_id).revision}
    own = operator.post(f"/rollouts/{rollout_id}/approve", form)
    assert own.status_code == 422
    assert "who started it" in own.text
    identity = f"user#{operator.session['_auth_user_id']}"
    Rollout.objects.update(created_by="token:ci/1", creator_identity=identity)
    assert operator.post(f"/rollouts/{rollout_id}/approve", form).status_code == 422  # their own token's start, too
    Rollout.objects.update(creator_identity="user#0")
    assert operator.post(f"/rollouts/{rollout_id}/approve", form, follow=True).status_code == 200
    page = operator.get(f"/rollouts/{rollout_id}").text
    assert "read the card" in page
    assert "1 of 2" in page
    form["revision"] = rollouts.rollout(rollout_id).revision
    again = operator.post(f"/rollouts/{rollout_id}/approve", form)
    assert again.status_code == 422
    assert "has not approved yet" in again.text


def test_page__while_the_database_is_too_busy__says_so_and_when_to_try_again(
    reader: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy() -> None:
        raise OperationalError("database is locked")

    monkeypatch.setattr(registry, "models", busy)
    response = reader.get("/models")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
    assert "Too busy for a moment" in response.text


def test_page__that_fails__is_rendered_without_anything_of_the_request() -> None:
    response = server_error(RequestFactory().get("/"))
    assert response.status_code == 500
    assert "The server failed" in response.content.decode()
