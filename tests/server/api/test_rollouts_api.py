"""Rollouts and devices over REST, on the simulated fleet: dry run, start, the operator's words, what was decided."""

from typing import Any

import pytest

from fleet.wiring import server
from tests.fakes.clock import FakeClock
from tests.server.api.conftest import Caller
from tests.server.catalogue import MODEL, NOW
from tests.server.story import Story

POLICY: dict[str, Any] = {"preset": "manual"}


@pytest.fixture
def story(installed: object, db: None, monkeypatch: pytest.MonkeyPatch) -> Story:
    """Sixteen devices, two versions, and the story's clock on the wall."""
    monkeypatch.setattr(server, "clock", lambda: FakeClock(NOW))
    told = Story()
    told.push("1")
    told.push("2")
    return told


def body(version: str = "1", **changes: Any) -> dict[str, Any]:
    return {"model": MODEL, "version": version, "policy": POLICY, "seed": "s1", **changes}


def test_plan__nothing_stored__counts_shown(story: Story, admin: Caller) -> None:
    plan = admin.post("/plan", body())
    assert (plan["population"], plan["eligible"]) == (16, 16)
    assert set(plan["variants"]) == {"onnx-fp32-any", "onnx-int8-any"}
    assert {"level", "code", "sentence"} == set(plan["findings"][0]) if plan["findings"] else True
    assert admin.get("/rollouts")["results"] == []


def test_rollout__started__shown_with_its_revision(story: Story, admin: Caller) -> None:
    answer = admin.send("POST", "/rollouts", body())
    assert answer.status_code == 201, answer.content
    rollout = answer.json()
    assert answer["ETag"] == f'"{rollout["revision"]}"'
    assert (rollout["model"], rollout["version"], rollout["state"], rollout["seed"]) == (MODEL, "1", "running", "s1")
    assert admin.get(f"/rollouts/{rollout['id']}")["policy"]["phases"]
    assert [item["id"] for item in admin.get(f"/rollouts?model={MODEL}&state=running")["results"]] == [rollout["id"]]
    assert admin.get("/rollouts?state=completed")["results"] == []
    (first,) = admin.get(f"/rollouts/{rollout['id']}/phases")["results"]
    assert (first["index"], first["is_counted"]) == (0, True)
    gates = admin.get(f"/rollouts/{rollout['id']}/gates")
    assert gates["rollout"] == rollout["id"]
    assert gates["sentence"]


def test_rollout__version_named_by_an_alias__resolved_at_once_wherever_it_stands(story: Story, admin: Caller) -> None:
    put = admin.send("PUT", f"/models/{MODEL}/aliases/next_one", {"version": "1"})
    assert put.status_code == 200, put.content
    assert admin.send("PUT", f"/models/{MODEL}/aliases/champion", {"version": "next_one"}).json()["version"] == "1"
    assert admin.get(f"/models/{MODEL}/versions/next_one")["version"] == "1"
    assert admin.get(f"/models/{MODEL}/versions/next_one/inspection")["version"] == "1"
    assert admin.post("/plan", body("champion"))["version"] == "1"
    rollout = admin.post("/rollouts", body("champion"))
    assert rollout["version"] == "1"
    assert admin.send("DELETE", f"/models/{MODEL}/aliases/champion").status_code == 204
    assert admin.get(f"/rollouts/{rollout['id']}")["version"] == "1"
    listed = admin.get(f"/rollouts?model={MODEL}&version=next_one")["results"]
    assert [item["id"] for item in listed] == [rollout["id"]]
    refused = admin.send("POST", "/rollouts", body("champion"))
    assert (refused.status_code, refused.json()["code"]) == (404, "version_not_found")


def test_rollout__same_key_again__started_once(story: Story, admin: Caller) -> None:
    first = admin.send("POST", "/rollouts", body(), Idempotency_Key="one")
    again = admin.send("POST", "/rollouts", body(), Idempotency_Key="one")
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["id"] == again.json()["id"]
    assert len(admin.get("/rollouts")["results"]) == 1


def test_rollout__operator_s_words__each_raises_the_revision(story: Story, admin: Caller) -> None:
    rollout = admin.post("/rollouts", body())
    revisions = [rollout["revision"]]
    for verb, state in (("pause", "held"), ("resume", "running"), ("cancel", "cancelled")):
        answer = admin.send("POST", f"/rollouts/{rollout['id']}:{verb}", {"reason": f"because {verb}"})
        assert (answer.status_code, answer.json()["state"]) == (200, state), answer.content
        revisions.append(answer.json()["revision"])
    assert revisions == sorted(set(revisions))
    decisions = admin.get(f"/rollouts/{rollout['id']}/decisions")["results"]
    assert "because cancel" in decisions[0]["sentence"]
    assert decisions[0]["actor"].startswith("token:admin/")
    again = admin.send("POST", f"/rollouts/{rollout['id']}:resume", {})
    assert again.status_code == 409


def test_rollout__acted_on_as_it_no_longer_is__409(story: Story, admin: Caller) -> None:
    rollout = admin.post("/rollouts", body())
    seen = f'"{rollout["revision"]}"'
    assert admin.send("POST", f"/rollouts/{rollout['id']}:pause", {}, If_Match=seen).status_code == 200
    late = admin.send("POST", f"/rollouts/{rollout['id']}:resume", {}, If_Match=seen)
    assert (late.status_code, late.json()["code"]) == (409, "rollout_revision")
    assert admin.send("POST", f"/rollouts/{rollout['id']}:resume", {}, If_Match="x").status_code == 400


@pytest.mark.parametrize(
    "changes",
    [
        {"policy": {"preset": "none"}},
        {"policy": {}},
        {"policy": []},
        {"policy": None},
        {"policy": {"phases": [{"share": "much"}]}},
        {"policy": {"phases": [{"share": 2}]}},
        {"seed": "x" * 65},
        {"version": "9"},
        {"model": "vision.nothing"},
        {"against": "7"},
    ],
)
def test_rollout__impossible__refused_and_nothing_started(story: Story, admin: Caller, changes: dict[str, Any]) -> None:
    answer = admin.send("POST", "/rollouts", body(**changes))
    assert answer.status_code in {400, 404, 409}
    assert answer.json()["code"]
    assert admin.get("/rollouts")["results"] == []


def test_devices__filtered_and_paged(story: Story, admin: Caller) -> None:
    first = admin.get("/devices?page_size=10")
    second = admin.get(first["next"].partition("/api/v1")[2])
    assert (len(first["results"]), len(second["results"]), second["next"]) == (10, 6, None)
    one = first["results"][0]
    same = admin.get(f"/devices?hardware_class={one['hardware_class']}")["results"]
    assert one["device_id"] in {item["device_id"] for item in same}
    assert {item["hardware_class"] for item in same} == {one["hardware_class"]}
    assert admin.get(f"/devices/{one['device_id']}") == one
    assert one["running"][0]["model"] == MODEL


def test_device__after_a_rollout__explained_and_on_its_timeline(story: Story, admin: Caller) -> None:
    rollout = admin.post("/rollouts", body(policy={"preset": "all-at-once"}))
    story.check()
    device = admin.get("/devices?page_size=1")["results"][0]
    assert device["running"][0]["version"] == "1"
    told = admin.get(f"/devices/{device['device_id']}/explain?model={MODEL}")
    assert (told["version"], told["rollout"], told["decision"]) == ("1", rollout["id"], "now")
    assert {"subject", "outcome", "sentence"} == set(told["trace"][0])
    states = [item["state"] for item in admin.get(f"/devices/{device['device_id']}/timeline")["results"]]
    assert "committed" in states
    running = admin.get(f"/models/{MODEL}/performance")["running"]
    assert sum(item["count"] for item in running if item["version"] == "1") == 16


def test_device__never_asked__explains_nothing(story: Story, admin: Caller) -> None:
    device = admin.get("/devices?page_size=1")["results"][0]["device_id"]
    answer = admin.send("GET", f"/devices/{device}/explain?model={MODEL}")
    assert (answer.status_code, answer.json()["code"]) == (404, "assignment_not_found")
    assert admin.send("GET", f"/devices/{device}/explain").status_code == 400


def test_device__revoked__the_broker_is_told(story: Story, admin: Caller) -> None:
    device = admin.get("/devices?page_size=1")["results"][0]["device_id"]
    assert admin.post(f"/devices/{device}:revoke")["state"] == "revoked"
    assert admin.get("/devices?state=revoked")["results"][0]["device_id"] == device


def test_group__set_and_listed(story: Story, admin: Caller) -> None:
    ids = [item["device_id"] for item in admin.get("/devices?page_size=3")["results"]]
    assert admin.send("PUT", "/groups/first", {"devices": ids}).json() == {"name": "first", "devices": 3}
    assert [item["device_id"] for item in admin.get("/devices?group=first")["results"]] == ids
    assert admin.get("/groups")["results"] == [{"name": "first", "devices": 3}]
    assert admin.send("PUT", "/groups/first", {"devices": ["cam-nobody"]}).status_code == 404


def test_labels__brought_by_a_pipeline__credited_once(story: Story, admin: Caller) -> None:
    admin.post("/rollouts", body(policy={"preset": "all-at-once"}))
    story.check()
    labels = [
        {"prediction": item.prediction, "label": item.label, "correct": item.correct}
        for item in story.devices[0].labels(story.now, n=20, accuracy=0.5).labels
    ]
    assert admin.post("/labels:batch", {"labels": labels}) == {"received": 20, "new": 20}
    assert admin.post("/labels:batch", {"labels": labels}) == {"received": 20, "new": 0}
    (overall,) = admin.get(f"/models/{MODEL}/performance")["overall"]
    assert overall["labels"] == 20


@pytest.mark.parametrize("labels", [[], [{}], [{"prediction": "x", "label": "1", "correct": True}], "x", [1]])
def test_labels__malformed__400(story: Story, admin: Caller, labels: Any) -> None:
    assert admin.send("POST", "/labels:batch", {"labels": labels}).status_code == 400
