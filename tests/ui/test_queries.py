"""Pages ask the database a constant number of questions, whatever the size of the fleet."""

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from tests.ui.story import MODEL, Story

pytestmark = pytest.mark.django_db


def count_queries(client: Client, path: str) -> int:
    with CaptureQueriesContext(connection) as captured:
        assert client.get(path).status_code == 200
    return len(captured)


def test_pages__of_a_fleet_that_grew__ask_no_more_questions(client: Client) -> None:
    client.force_login(User.objects.create_user("ada", is_staff=True))
    story = Story(timezone.now(), size=30, away=0)
    everybody = list(story.fleet.devices)
    story.fleet.devices = everybody[:3]
    rollout_id = story.first_rollout()
    pages = ["/", "/models", f"/models/{MODEL}", f"/models/{MODEL}/versions/1", "/rollouts", f"/rollouts/{rollout_id}",
             f"/rollouts/{rollout_id}/hold", "/devices", "/devices/sim-00000", "/enrol", "/audit"]  # fmt: skip
    story.everybody()
    client.get("/")
    before = {page: count_queries(client, page) for page in pages}
    story.fleet.devices = everybody[3:]
    story.enrol()
    story.size = len(story.fleet.devices)
    story.everybody()
    after = {page: count_queries(client, page) for page in pages}
    assert after == before
    assert max(after.values()) <= 25, after
