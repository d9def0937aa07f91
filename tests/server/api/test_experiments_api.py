"""Experiments over REST and by the command, on the simulated fleet."""

from typing import Any

import pytest

from fleet.apps.experiments import conducting
from fleet.demo import fleet_plan
from fleet.wiring import server
from tests.fakes.clock import FakeClock
from tests.server.api.conftest import Caller
from tests.server.catalogue import MODEL
from tests.server.story import HOLDER, Story

ACCURACY = {"1": 0.8, "2": 0.97}
SPEC: dict[str, Any] = {
    "arms": [{"name": "control", "version": "1", "weight": 2}, {"name": "candidate", "version": "2"}],
    "share": 0.75,
    "success": {"accuracy": {"effect_points": 5, "min_labels_per_device": 30}},
    "duration_s": 600,
    "allow_delta": False,
}


@pytest.fixture
def story(installed: object, db: None, monkeypatch: pytest.MonkeyPatch) -> Story:
    """Sixteen devices on version 1, a second version, and the story's clock on the wall."""
    told = Story()
    monkeypatch.setattr(server, "clock", lambda: FakeClock(told.now))
    return told.settle_on_1("2")


def draft(admin: Caller) -> Any:
    answer = admin.send("POST", "/experiments", {"model": MODEL, "spec": SPEC})
    assert answer.status_code == 201, answer.content
    return answer.json()


def test_experiment__drafted_planned_started_decided_promoted__over_rest(story: Story, admin: Caller) -> None:
    drafted = draft(admin)
    path = f"/experiments/{drafted['id']}"
    plan = admin.get(f"{path}/plan?seed={fleet_plan.SEED_BETTER}")
    assert {arm["name"]: sum(arm["classes"].values()) for arm in plan["arms"]} == {"candidate": 4, "control": 8}
    started = admin.post(f"{path}:start", {"seed": fleet_plan.SEED_BETTER})
    assert (started["state"], started["seed"]) == ("running", fleet_plan.SEED_BETTER)
    story.check()
    story.measure(ACCURACY)
    results = admin.get(f"{path}/results")
    assert (results["frozen"], results["assigned"]["rejected"]) == (False, False)
    assert results["comparisons"][0]["finding"] == "better"
    conducting.tick(now=story.now, holder=HOLDER)
    assert admin.get(path)["verdict"] == "ship"
    assert admin.get(f"{path}/results")["frozen"]
    assert len(admin.get(f"{path}/looks")["results"]) == 1
    actions = [item["action"] for item in admin.get(f"{path}/decisions")["results"]]
    assert actions == ["decide", "start", "create"]
    policy = {"phases": [{"share": 0.25}, {"share": 1.0}], "allow_delta": False}
    promoted = admin.post(f"{path}:promote", {"policy": policy})
    assert promoted["state"] == "promoted"
    assert admin.get(f"/rollouts/{promoted['rollout']}")["phases"] == 1
    assert [item["id"] for item in admin.get(f"/experiments?model={MODEL}&state=promoted")["results"]] == [
        drafted["id"]
    ]
    explained = admin.get(f"/devices/cam-01/explain?model={MODEL}")
    assert explained


def test_experiment__arm_named_by_an_alias__drafted_with_the_version(story: Story, admin: Caller) -> None:
    assert admin.send("PUT", f"/models/{MODEL}/aliases/challenger", {"version": "2"}).status_code == 200
    arms = [SPEC["arms"][0], {"name": "candidate", "version": "challenger"}]
    drafted = admin.post("/experiments", {"model": MODEL, "spec": {**SPEC, "arms": arms}})
    assert [arm["version"] for arm in drafted["spec"]["arms"]] == ["1", "2"]


def test_experiment__specification_does_not_hold_together__problem_names_it(story: Story, admin: Caller) -> None:
    answer = admin.send("POST", "/experiments", {"model": MODEL, "spec": {**SPEC, "share": 2}})
    assert answer.status_code == 400
    assert answer.json()["code"] == "experiment_invalid"
    assert "experiment.share" in answer.json()["detail"]


def test_experiment__acts_on_an_older_revision__conflict(story: Story, admin: Caller) -> None:
    drafted = draft(admin)
    answer = admin.send("POST", f"/experiments/{drafted['id']}:stop", {}, **{"If-Match": '"1"'})
    assert answer.status_code == 409
    assert admin.send("POST", f"/experiments/{drafted['id']}:extend", {"extra_s": 5}).status_code == 409
    assert admin.send("POST", f"/experiments/{drafted['id']}:stop", {}).status_code == 200


def test_experiment__token_of_another_namespace__does_not_see_it(story: Story, admin: Caller) -> None:
    drafted = draft(admin)
    stranger = Caller(admin.post("/tokens", {"name": "other", "scopes": ["rollout:write:audio"], "days": 1})["token"])
    assert stranger.send("GET", f"/experiments/{drafted['id']}").status_code in (403, 404)
    assert stranger.send("POST", f"/experiments/{drafted['id']}:stop", {}).status_code in (403, 404)
    assert stranger.send("POST", "/experiments", {"model": MODEL, "spec": SPEC}).status_code in (403, 404)


def test_experiment__namespace_asks_for_approvals__given_over_rest(story: Story, admin: Caller) -> None:
    admin.send("PATCH", f"/namespaces/{MODEL.partition('.')[0]}", {"approvals": 1})
    drafted = draft(admin)
    waiting = admin.post(f"/experiments/{drafted['id']}:start", {"seed": fleet_plan.SEED_BETTER})
    assert (waiting["state"], waiting["approvals_required"], waiting["approvals"]) == ("awaiting_approval", 1, [])
    refused = admin.send("POST", f"/experiments/{drafted['id']}:approve", {"reason": "my own"})
    assert refused.status_code == 403
    urgent = admin.post(f"/experiments/{drafted['id']}:approve", {"reason": "fire", "emergency": True})
    assert urgent["state"] == "running"
    assert [(item["reason"], item["emergency"]) for item in urgent["approvals"]] == [("fire", True)]
