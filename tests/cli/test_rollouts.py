"""`modelfleet rollout`, `devices`, `explain`, `tail`: what is sent, what is said, which exit code."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from fleet.domain.presets import PRESETS
from fleet.entrypoints.cli.api import JsonObject
from fleet.entrypoints.cli.commands.rollouts import POLICY_HELP
from fleet.entrypoints.cli.counted import counted
from tests.cli.conftest import CommandLine
from tests.fakes.release_server import ReleaseServerSimulator


def _start(modelfleet: CommandLine, *words: str | Path) -> Any:
    return modelfleet.ok("rollout", "start", "vision.digits@2", *words)


def _decide(server: ReleaseServerSimulator, rollout_id: str, action: str, state: str) -> None:
    decisions = server.decisions.setdefault(rollout_id, [])
    decisions.append(
        {
            "id": len(decisions) + 1,
            "at": f"2026-01-01T00:00:0{len(decisions)}Z",
            "phase": 0,
            "action": action,
            "sentence": f"because of {action}",
        }
    )
    server._rollout(rollout_id)["state"] = state


def test_rollout_start__preset__sent_by_name(modelfleet: CommandLine, server: ReleaseServerSimulator) -> None:
    rollout = _start(modelfleet, "--policy", "all-at-once", "--seed", "s1")
    sent = server.rollouts[0]
    assert (sent["model"], sent["version"], sent["policy"], sent["seed"]) == (
        "vision.digits",
        "2",
        {"preset": "all-at-once"},
        "s1",
    )
    assert rollout["id"] == sent["id"]


def test_rollout_start__policy_file_and_aliases__left_to_the_server(
    modelfleet: CommandLine, server: ReleaseServerSimulator, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.json"
    policy.write_text('{"phases": [{"share": 1.0}]}')
    modelfleet.ok("rollout", "start", "vision.digits@challenger", "--policy", policy, "--vs", "champion")
    sent = server.rollouts[0]
    assert (sent["version"], sent["against"], sent["policy"]) == (
        *("challenger", "champion"),
        {"phases": [{"share": 1.0}]},
    )


def test_counted__fleet_is_being_counted__asked_again_until_it_is() -> None:
    answers: list[JsonObject] = [{"state": "counting", "retry_after_s": 1}, {"eligible": 7}, {"eligible": 8}]
    assert counted(lambda: answers.pop(0)) == {"eligible": 7}


def test_rollout_start__help__names_every_preset() -> None:
    assert all(name in POLICY_HELP for name in PRESETS)


@pytest.mark.parametrize(("content", "words"), [("{", "expected JSON"), ("[]", "expected an object")])
def test_rollout_start__policy_file_malformed__one_line(
    modelfleet: CommandLine, server: ReleaseServerSimulator, tmp_path: Path, content: str, words: str
) -> None:
    (tmp_path / "policy.json").write_text(content)
    ran = modelfleet("rollout", "start", "vision.digits@2", "--policy", tmp_path / "policy.json")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert words in ran.err
    assert server.rollouts == []


def test_rollout_start__policy_file_missing__not_taken_for_a_preset(modelfleet: CommandLine) -> None:
    ran = modelfleet("rollout", "start", "vision.digits@2", "--policy", "nowhere/policy.json")
    assert ran.code == 1
    assert "cannot read" in ran.err


@pytest.mark.parametrize(
    ("action", "state", "code", "outcome"),
    [
        ("complete", "completed", 0, "healthy"),
        ("reverted", "reverted", 2, "rolled_back"),
        ("cancel", "cancelled", 2, "rolled_back"),
        ("hold", "held", 3, "held"),
    ],
)
def test_rollout_wait__outcome__told_by_exit_code(
    modelfleet: CommandLine, server: ReleaseServerSimulator, action: str, state: str, code: int, outcome: str
) -> None:
    _decide(server, _start(modelfleet)["id"], action, state)
    ran = modelfleet("--json", "rollout", "wait")
    assert ran.code == code
    assert (ran.json["outcome"], ran.json["exit_code"]) == (outcome, code)
    assert f"because of {action}" in ran.err


def test_rollout_wait__time_is_up__exit_code_held(modelfleet: CommandLine) -> None:
    rollout = _start(modelfleet)
    ran = modelfleet("rollout", "wait", rollout["id"], "--timeout", "0.1")
    assert ran.code == 3
    assert "no outcome within 0.1 s" in ran.err


def test_rollout_wait__healthy_with_alias__alias_moved_only_then(
    modelfleet: CommandLine, server: ReleaseServerSimulator
) -> None:
    rollout = _start(modelfleet)
    _decide(server, rollout["id"], "hold", "held")
    assert modelfleet("rollout", "wait", "--on-success", "alias=champion").code == 3
    assert server.aliases == {}
    _decide(server, rollout["id"], "complete", "completed")
    assert modelfleet("rollout", "wait", "--on-success", "alias=champion").code == 0
    assert server.aliases == {"vision.digits": {"champion": "2"}}


@pytest.mark.parametrize(
    ("word", "state"), [("hold", "held"), ("resume", "running"), ("revert", "reverting"), ("cancel", "cancelled")]
)
def test_rollout_action__named_rollout__sent_with_its_reason(
    modelfleet: CommandLine, server: ReleaseServerSimulator, word: str, state: str
) -> None:
    rollout = _start(modelfleet)
    answer = modelfleet.ok("rollout", word, rollout["id"], "--reason", "fog", "--if-revision", "1")
    assert (answer["state"], answer["because"]) == (state, "fog")


def test_rollout_action__no_rollout_named__not_guessed(modelfleet: CommandLine, server: ReleaseServerSimulator) -> None:
    _start(modelfleet)
    ran = modelfleet("rollout", "revert")
    assert ran.code == 1
    assert server.rollouts[0]["state"] == "running"


def test_rollout_list_and_show__as_text__readable(modelfleet: CommandLine, server: ReleaseServerSimulator) -> None:
    rollout = _start(modelfleet)
    _decide(server, rollout["id"], "advance", "running")
    assert rollout["id"] in modelfleet("rollout", "list").out
    shown = modelfleet("rollout", "show").out
    assert "phase 1 of 3 (25%)" in shown
    assert "because of advance" in shown


def test_devices_claim__new_device__command_carries_token_and_pin_of_the_anchors(
    modelfleet: CommandLine, server: ReleaseServerSimulator
) -> None:
    document = modelfleet.ok(
        "devices", "claim", "cam-01", "--hardware-class", "camera", "--attribute", "site=hall", "--expires", "2h"
    )
    assert server.claims == [
        {"device_id": "cam-01", "hardware_class": "camera", "attributes": {"site": "hall"}, "expires_in_s": 7200}
    ]
    words = shlex.split(document["command"])
    assert words[:3] == ["modelfleet-device", "enroll", server.url]
    assert words[words.index("--token") + 1] == document["token"]
    assert words[words.index("--pin") + 1] == server.pin
    assert modelfleet("devices", "claim", "cam-02", "--hardware-class", "camera").out.count("\n") == 1


def test_json_result__of_every_list__is_a_list(modelfleet: CommandLine) -> None:
    for words in (("models", "list"), ("rollout", "list")):
        assert json.loads(modelfleet("--json", *words).out) == []
