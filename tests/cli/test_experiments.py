"""`modelfleet experiment` against the real interface, with the demo's fleet simulated behind it."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pytest_django.live_server_helper import LiveServer

from fleet.apps.experiments import conducting
from fleet.apps.trust import services as trust
from fleet.demo import fleet_plan, policies
from fleet.wiring import server
from tests.cli.conftest import CommandLine
from tests.fakes.clock import FakeClock
from tests.server.catalogue import MODEL
from tests.server.story import HOLDER, Story

pytestmark = pytest.mark.django_db(transaction=True)
ACCURACY = {"1": 0.8, "2": 0.97}


@pytest.fixture
def story(monkeypatch: pytest.MonkeyPatch) -> Story:
    """Sixteen devices on version 1, and a second version."""
    told = Story()
    monkeypatch.setattr(server, "clock", lambda: FakeClock(told.now))
    return told.settle_on_1("2")


@pytest.fixture
def modelfleet(live_server: LiveServer, tmp_path: Path) -> CommandLine:
    """The command with a token for everything."""
    _, token = trust.issue_token(name="ci", granted=["admin"], expires_in_s=3600, actor="test", now=datetime.now(UTC))
    return CommandLine({"HOME": str(tmp_path), "MODELFLEET_URL": live_server.url, "MODELFLEET_TOKEN": token})


def test_experiment__from_the_file_to_the_rollout_of_the_winner(
    story: Story, modelfleet: CommandLine, tmp_path: Path
) -> None:
    spec, policy = tmp_path / "experiment.json", tmp_path / "policy.json"
    spec.write_text(json.dumps(policies.comparison()))
    policy.write_text(json.dumps(policies.ramp()))
    drafted = modelfleet.ok("experiment", "create", MODEL, "--spec", spec)["id"]
    planned = modelfleet("experiment", "plan", drafted, "--seed", fleet_plan.SEED_BETTER)
    assert "candidate (version 2): 4 devices" in planned.out
    assert planned.code == 0
    assert modelfleet.ok("experiment", "start", drafted, "--seed", fleet_plan.SEED_BETTER)["state"] == "running"
    assert modelfleet("experiment", "wait", drafted, "--timeout", "0.1").code == 3
    extended = modelfleet.ok("experiment", "extend", drafted, "--by", "60s", "--reason", "slow week")
    assert extended["because"] == "slow week"
    story.pass_time(41)  # nobody builds patches here
    story.check()
    story.pass_time(4)
    story.measure(ACCURACY)
    conducting.tick(now=story.now, holder=HOLDER)
    assert modelfleet("experiment", "wait", drafted).code == 0
    shown = modelfleet("experiment", "show", drafted).out
    assert "devices assigned fall on the arms as they should: 8 in champion, 4 in candidate" in shown
    assert "BETTER: accuracy of candidate is" in shown
    assert modelfleet("experiment", "extend", drafted, "--by", "60s").code == 1
    promoted = modelfleet.ok("experiment", "promote", drafted, "--policy", policy)
    assert promoted["rollout"].startswith("r-")
    assert "promoted" in modelfleet("experiment", "list", "--model", MODEL).out
    assert modelfleet("experiment", "stop", drafted).code == 1


def test_experiment__file_that_holds_no_json__one_line(story: Story, modelfleet: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    for name, complaint in (("broken.json", "expected JSON"), ("absent.json", "cannot read")):
        ran = modelfleet("experiment", "create", MODEL, "--spec", tmp_path / name)
        assert ran.code == 1
        assert complaint in ran.err
        assert ran.err.count("\n") == 1


def test_experiment__stopped_draft__harms_nobody(story: Story, modelfleet: CommandLine, tmp_path: Path) -> None:
    spec = tmp_path / "experiment.json"
    spec.write_text(json.dumps(policies.comparison()))
    drafted = modelfleet.ok("experiment", "create", MODEL, "--spec", spec)["id"]
    assert modelfleet.ok("experiment", "stop", drafted)["state"] == "stopped"
    assert modelfleet("experiment", "wait", drafted).code == 3
    story.check()
    assert story.running() == {"1": 16}
