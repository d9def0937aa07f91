"""The pipeline command against the real control plane: real HTTP, real database, the publisher's real work."""

import dataclasses
import gc
import json
import random
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.db import connections
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

from fleet.apps.assignments import services as assignments
from fleet.apps.devices import services as devices
from fleet.apps.registry import selectors as registry
from fleet.apps.trust import services as trust
from fleet.config.environment import LocalBlobs
from fleet.entrypoints.cli import uploads
from fleet.entrypoints.cli.api import Api
from fleet.ports.release_server import Reply
from fleet.wiring import installation, server
from tests.cli.conftest import CommandLine
from tests.fakes.fleet_simulator import SimulatedDevice

COMPOSED = (
    server.blob_store,
    server.upload_spool,
    server.image_files,
    server.signer,
    server.online_keys,
    installation.device_authority,
)

pytestmark = pytest.mark.django_db(transaction=True)


def _publish_until(stop: threading.Event) -> None:
    """What the publisher process does with the image repository."""
    try:
        while not stop.wait(0.1):
            server.publish_image(datetime.now(UTC))
    finally:
        connections.close_all()


@pytest.fixture
def installed(settings: Settings, tmp_path: Path) -> Iterator[Path]:
    """A control plane with a home of its own."""
    home = tmp_path / "server"
    home.mkdir()
    settings.MODELFLEET = dataclasses.replace(settings.MODELFLEET, home=home, blobs=LocalBlobs(home / "blobs"))
    for composed in COMPOSED:
        composed.cache_clear()
    installation.prepare_secrets()
    yield home
    for composed in COMPOSED:
        composed.cache_clear()


@pytest.fixture
def modelfleet(live_server: LiveServer, installed: Path, tmp_path: Path) -> Iterator[CommandLine]:
    """The command with a token for everything."""
    _, token = trust.issue_token(
        name="ci", granted=["admin"], expires_in_s=3600, actor="test", owner="user#1", now=datetime.now(UTC)
    )
    yield CommandLine({"HOME": str(tmp_path / "home"), "MODELFLEET_URL": live_server.url, "MODELFLEET_TOKEN": token})
    # A process would end here. Its connections must close in this one too, or the live server's threads, and with them
    # their sessions at the database, outlive the test.
    gc.collect()


@pytest.fixture
def publisher(modelfleet: CommandLine) -> Iterator[None]:
    """Publishes as long as the test runs."""
    stop = threading.Event()
    thread = threading.Thread(target=_publish_until, args=(stop,))
    thread.start()
    yield
    stop.set()
    thread.join()


def _limited(modelfleet: CommandLine, *granted: str, owner: str = "user#2") -> CommandLine:
    _, token = trust.issue_token(
        name="limited", granted=granted, expires_in_s=3600, actor="test", owner=owner, now=datetime.now(UTC)
    )
    return CommandLine({**modelfleet.environment, "MODELFLEET_TOKEN": token})


def _error(modelfleet: CommandLine, *words: str | Path) -> str:
    ran = modelfleet("--json", *words)
    assert ran.code == 1, ran.out
    return str(json.loads(ran.err.splitlines()[-1])["error"]["code"])


@pytest.mark.usefixtures("publisher")
def test_live__from_keys_to_revocation__every_step_taken(
    modelfleet: CommandLine, keys: Path, release_dir: Path, onnx_file: Callable[..., Path]
) -> None:
    modelfleet.ok("models", "create", "vision.digits", "--keys", keys, "--description", "digits")
    pushed = modelfleet.ok("push", "vision.digits", release_dir, "--keys", keys, "--git-sha", "abc")
    assert (pushed["version"], pushed["state"]) == ("1", "published")
    record = registry.get_version("vision.digits", "1")
    assert record.variants[0].digest == pushed["variants"][0]["digest"]
    for named in (record.variants[0].digest, *(file.sha256 for file in record.variants[0].manifest.files)):
        assert server.blob_store().length(named) is not None, "a device could not download it"
    assert modelfleet.ok("push", "vision.digits", onnx_file(2), "--keys", keys)["version"] == "2"
    modelfleet.ok("alias", "set", "champion", "vision.digits@1")
    assert [item["name"] for item in modelfleet.ok("alias", "list", "vision.digits")] == ["champion"]
    assert [item["version"] for item in modelfleet.ok("versions", "vision.digits")] == ["2", "1"]
    assert modelfleet.ok("models", "list")[0]["latest_version"] == "2"
    assert modelfleet.ok("revoke", "vision.digits@2", "--keys", keys)["state"] == "revoked"
    assert modelfleet.ok("push", "vision.digits", onnx_file(3), "--keys", keys)["version"] == "3"
    assert len(modelfleet.ok("keys", "refresh", keys, "--all")["signed"]) == 2
    for words in (
        ("models", "list"),
        ("versions", "vision.digits"),
        ("whoami",),
        ("rollout", "list"),
        ("tail", "--once"),
    ):
        assert modelfleet(*words).code == 0


@pytest.mark.usefixtures("publisher")
def test_live__upload_in_many_chunks__arrives_whole(
    modelfleet: CommandLine, keys: Path, onnx_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "CHUNK_BYTES", 10_000)
    modelfleet.ok("models", "create", "vision.digits", "--keys", keys)
    path = onnx_file(1, hidden=200)
    assert modelfleet.ok("push", "vision.digits", path, "--keys", keys)["bytes_sent"] == path.stat().st_size


@pytest.mark.usefixtures("publisher")
def test_live__push_interrupted_by_ctrl_c__next_run_goes_on_where_it_stopped(
    modelfleet: CommandLine, keys: Path, onnx_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "CHUNK_BYTES", 10_000)
    modelfleet.ok("models", "create", "vision.digits", "--keys", keys)
    path = onnx_file(1, hidden=200)
    send = Api.send_chunk
    sent: list[int] = []

    def interrupted(api: Api, sha256: str, offset: int, chunk: bytes) -> Reply:
        if len(sent) == 2:
            raise KeyboardInterrupt
        sent.append(offset)
        return send(api, sha256, offset, chunk)

    monkeypatch.setattr(Api, "send_chunk", interrupted)
    assert modelfleet("push", "vision.digits", path, "--keys", keys).code == 130
    monkeypatch.setattr(Api, "send_chunk", send)
    ran = modelfleet("--json", "push", "vision.digits", path, "--keys", keys)
    assert "resumed at 20,000" in ran.err
    assert ran.json["bytes_sent"] == path.stat().st_size - 20_000


@pytest.mark.usefixtures("publisher")
def test_live__three_pushes_of_one_model_at_once__three_versions(
    modelfleet: CommandLine, keys: Path, onnx_file: Callable[..., Path]
) -> None:
    modelfleet.ok("models", "create", "vision.digits", "--keys", keys)
    files = [onnx_file(seed) for seed in range(3)]
    with ThreadPoolExecutor(len(files)) as pool:
        pushed = list(pool.map(lambda path: modelfleet("--json", "push", "vision.digits", path, "--keys", keys), files))
    assert [ran.code for ran in pushed] == [0, 0, 0], [ran.err for ran in pushed]
    assert sorted(ran.json["version"] for ran in pushed) == ["1", "2", "3"]
    assert len(modelfleet.ok("versions", "vision.digits")) == 3


def _check_in(device_id: str, model: str) -> None:
    """A device that asks what to run, through the services that its messages reach."""
    now = datetime.now(UTC)
    device = SimulatedDevice(device_id, "camera", model, random.Random(1))
    devices.enrol(device_id=device_id, hardware_class="camera", attributes={}, now=now)
    check = device.check(now)
    devices.record_check(device_id=device_id, check=check, now=now)
    assignments.answer_check(device_id=device_id, check=check, now=now)


@pytest.mark.usefixtures("publisher")
def test_live__rollout__planned_started_shown_steered_explained(
    modelfleet: CommandLine, keys: Path, onnx_file: Callable[..., Path]
) -> None:
    modelfleet.ok("models", "create", "vision.digits", "--keys", keys)
    modelfleet.ok("push", "vision.digits", onnx_file(1), "--keys", keys)
    _check_in("cam-01", "vision.digits")
    plan = modelfleet.ok("rollout", "plan", "vision.digits@1", "--policy", "all-at-once")
    assert (plan["population"], plan["eligible"], plan["variants"]) == (1, 1, {"onnx-fp32-any": 1})
    rollout = modelfleet.ok("rollout", "start", "vision.digits@1", "--policy", "all-at-once", "--seed", "s1")
    assert (rollout["state"], rollout["seed"]) == ("running", "s1")
    _check_in("cam-01", "vision.digits")
    assert "vision.digits@1" in modelfleet("explain", "cam-01", "vision.digits").out
    assert [item["device_id"] for item in modelfleet.ok("devices", "list", "--model", "vision.digits")] == ["cam-01"]
    assert modelfleet.ok("devices", "list", "--filter", "id == 'cam-01' and not group('beta')") != []
    assert modelfleet.ok("devices", "list", "--filter", "hw == 'nothing like it'") == []
    unreadable = ("devices", "list", "--filter", "hw = 'a'")
    assert modelfleet(*unreadable).err.splitlines()[1:] == ["  hw = 'a'", "     ^"]
    assert _error(modelfleet, *unreadable) == "filter_invalid"
    assert modelfleet("rollout", "hold", rollout["id"], "--if-revision", "99").code == 1
    assert modelfleet.ok("rollout", "hold", rollout["id"], "--reason", "fog")["state"] == "held"
    assert modelfleet("rollout", "wait", "--timeout", "5").code == 3
    assert modelfleet.ok("rollout", "resume", rollout["id"])["state"] == "running"
    assert "fog" in modelfleet("rollout", "show").out
    assert "fog" in modelfleet("tail", "--once").out
    assert modelfleet.ok("rollout", "cancel", rollout["id"])["state"] in {"cancelled", "reverting"}
    for words in (("plan", "vision.digits@1"), ("list",), ("show",)):
        assert modelfleet("rollout", *words).code == 0


@pytest.mark.usefixtures("publisher")
def test_live__approvals__asked_for_given_by_others_and_in_an_emergency(
    modelfleet: CommandLine, keys: Path, onnx_file: Callable[..., Path]
) -> None:
    modelfleet.ok("models", "create", "vision.digits", "--keys", keys)
    modelfleet.ok("push", "vision.digits", onnx_file(1), "--keys", keys)
    assert modelfleet.ok("namespaces", "set", "vision", "--approvals", "1")["approvals"] == 1
    assert [item["approvals"] for item in modelfleet.ok("namespaces", "list")] == [1]
    waiting = modelfleet.ok("rollout", "start", "vision.digits@1", "--policy", "all-at-once")
    assert waiting["state"] == "awaiting_approval"
    approve = ("rollout", "approve", waiting["id"], "--reason", "read it")
    assert _error(modelfleet, *approve) == "approval_of_own"
    assert _error(_limited(modelfleet, "rollout:write:vision"), *approve) == "scope_missing"
    approver = _limited(modelfleet, "rollout:approve:vision")
    assert _error(approver, *approve, "--emergency") == "scope_missing"
    assert _error(approver, "namespaces", "set", "vision", "--approvals", "0") == "scope_missing"
    assert _error(_limited(modelfleet, "rollout:approve:vision", owner="user#1"), *approve) == "approval_of_own"
    assert _error(_limited(modelfleet, "rollout:approve:vision", owner=""), *approve) == "approval_by_nobody"
    assert approver.ok(*approve)["state"] == "running"
    assert "read it" in modelfleet("rollout", "show", waiting["id"]).out
    modelfleet.ok("rollout", "cancel", waiting["id"])
    urgent = modelfleet.ok("rollout", "start", "vision.digits@1", "--policy", "all-at-once")
    assert modelfleet.ok("rollout", "approve", urgent["id"], "--reason", "fire", "--emergency")["state"] == "running"


@pytest.mark.usefixtures("publisher")
def test_live__quiet_hours__set_by_words_keep_a_start_until_somebody_overrides(
    modelfleet: CommandLine, keys: Path, onnx_file: Callable[..., Path]
) -> None:
    modelfleet.ok("models", "create", "vision.digits", "--keys", keys)
    modelfleet.ok("push", "vision.digits", onnx_file(1), "--keys", keys)
    change = ("namespaces", "set", "vision")
    assert _error(modelfleet, *change) == "usage"
    assert _error(modelfleet, *change, "--quiet", "always") == "usage"
    assert _error(modelfleet, *change, "--quiet", "daily 01:00-02:00 Mars/Base") == "quiet_hours_invalid"
    # From an hour ago on, for 23 hours.
    now = datetime.now(UTC)
    quiet = f"daily {now - timedelta(hours=1):%H:%M}-{now - timedelta(hours=2):%H:%M} UTC"
    found = modelfleet.ok(*change, "--quiet", quiet)
    assert (found["approvals"], len(found["quiet_hours"])) == (0, 1)
    assert quiet in modelfleet("namespaces", "list").out
    kept = modelfleet.ok("rollout", "start", "vision.digits@1", "--policy", "all-at-once")
    assert kept["state"] == "scheduled"
    assert "quiet hours until" in kept["because"]
    assert _error(modelfleet, "rollout", "override-quiet", kept["id"]) == "reason_missing"
    freed = modelfleet.ok("rollout", "override-quiet", kept["id"], "--reason", "the fix")
    assert (freed["state"], freed["ignores_quiet_hours"]) == ("running", True)
    assert modelfleet.ok(*change, "--quiet", "")["quiet_hours"] == []


def test_live__webhooks__added_tested_listed_removed_within_ones_reach(modelfleet: CommandLine) -> None:
    add = ("webhooks", "add", "https://hooks.example.org/x", "--event", "rollout.*")
    scoped = _limited(modelfleet, "webhook:write:vision")
    assert _error(scoped, *add) == "scope_missing"
    own = scoped.ok(*add, "--namespace", "vision")
    assert own["secret"].startswith("mfw_")
    everything = modelfleet.ok(*add)
    assert [item["id"] for item in scoped.ok("webhooks", "list")] == [own["id"]]
    assert "secret" not in modelfleet.ok("webhooks", "list")[1]
    assert _error(scoped, "webhooks", "test", str(everything["id"])) == "scope_missing"
    delivery = scoped.ok("webhooks", "test", str(own["id"]))["delivery"]
    assert [item["id"] for item in scoped.ok("webhooks", "deliveries", str(own["id"]))] == [delivery]
    assert "pending" in scoped("webhooks", "deliveries", str(own["id"])).out
    assert scoped.ok("webhooks", "replay", str(own["id"]), str(delivery))["delivery"] == delivery
    assert scoped.ok("webhooks", "remove", str(own["id"]))["removed"]
    assert _error(modelfleet, *add[:-1], "NO") == "webhook_events"


def test_live__emergency_stop__set_listed_lifted_within_ones_reach(modelfleet: CommandLine, keys: Path) -> None:
    modelfleet.ok("namespaces", "list")
    scoped = _limited(modelfleet, "rollout:write:vision")
    everything = ("stop", "set", "everything", "--reason", "unknown")
    assert _error(scoped, *everything) == "scope_missing"
    assert _error(scoped, "stop", "set", "sound", "--reason", "x") == "scope_missing"
    assert _error(scoped, "stop", "set", "vision.digits", "--reason", "x") == "model_not_found"
    assert modelfleet.ok(*everything)["scope"] == "*"
    assert _error(modelfleet, *everything) == "stopped_already"
    assert [item["reason"] for item in scoped.ok("stop", "list")] == ["unknown"]
    modelfleet.ok("stop", "lift", "everything", "--reason", "known")
    assert modelfleet("stop", "list").out == "nothing is stopped\n"


@pytest.mark.usefixtures("publisher")
def test_live__plan_of_a_version_that_fits_no_device__exit_code_4(
    modelfleet: CommandLine, keys: Path, onnx_file: Callable[..., Path]
) -> None:
    modelfleet.ok("models", "create", "vision.digits", "--keys", keys)
    modelfleet.ok("push", "vision.digits", onnx_file(1), "--keys", keys, "--hardware", "coral")
    _check_in("cam-01", "vision.digits")
    ran = modelfleet("rollout", "plan", "vision.digits@1")
    assert ran.code == 4
    assert "1 get nothing" in ran.out


def test_live__no_publisher__push_cannot_begin_and_says_why(
    modelfleet: CommandLine, keys: Path, onnx_file: Callable[..., Path]
) -> None:
    assert (
        _error(modelfleet, "push", "vision.digits", onnx_file(), "--keys", keys, "--timeout", "0.1") == "not_published"
    )


def test_live__second_key_set__refused_by_the_server(modelfleet: CommandLine, keys: Path, tmp_path: Path) -> None:
    assert _error(modelfleet, "keys", "init", tmp_path / "other", "--no-passphrase") == "roots_exist"


def test_live__wrong_token__one_line(modelfleet: CommandLine) -> None:
    modelfleet.environment["MODELFLEET_TOKEN"] = "mf_00000000_" + "x" * 43
    assert _error(modelfleet, "models", "list") == "not_authenticated"


def test_live__token_without_the_scope__refused_before_anything_is_stored(
    modelfleet: CommandLine, keys: Path, tmp_path: Path
) -> None:
    reader = _limited(modelfleet, "read")
    assert reader.ok("models", "list") == []
    assert _error(reader, "devices", "claim", "cam-01", "--hardware-class", "camera") == "scope_missing"
    assert _error(reader, "keys", "import", keys) == "scope_missing"


def test_live__claim__printed_command_pins_what_is_served(modelfleet: CommandLine, keys: Path) -> None:
    document = modelfleet.ok("devices", "claim", "cam-01", "--hardware-class", "camera", "--attribute", "site=hall")
    assert document["command"].startswith("modelfleet-device enroll http")
    assert len(document["pin"]) == 64
    assert modelfleet.ok("devices", "list") == []


def test_live__device__shown_then_revoked_for_good(modelfleet: CommandLine) -> None:
    _check_in("cam-01", "vision.digits")
    shown = modelfleet("devices", "show", "cam-01").out
    assert re.search(r"state +active", shown)
    assert re.search(r"class +camera", shown)
    assert "vision.digits@" in shown
    assert modelfleet.ok("devices", "show", "cam-01")["capabilities"]["runtimes"]
    assert modelfleet("devices", "revoke", "cam-01").out == "cam-01 is revoked: it is shut out from now on\n"
    assert modelfleet.ok("devices", "show", "cam-01")["state"] == "revoked"
    assert _error(modelfleet, "devices", "revoke", "cam-02") == "device_unknown"
    assert _error(modelfleet, "devices", "show", "../me") == "not_found"
    assert _error(_limited(modelfleet, "read"), "devices", "revoke", "cam-01") == "scope_missing"


def test_live__claim_before_keys__says_what_is_missing(modelfleet: CommandLine) -> None:
    ran = modelfleet("devices", "claim", "cam-01", "--hardware-class", "camera")
    assert ran.code == 1
    assert "keys init" in ran.err


def test_live__unknown_things__named_in_one_line(modelfleet: CommandLine) -> None:
    for words in (
        ("versions", "no.such"),
        ("rollout", "show", "r-000000000000"),
        ("rollout", "wait"),
        ("explain", "no-such-device", "no.such"),
        ("rollout", "start", "no.such@1"),
    ):
        ran = modelfleet(*words)
        assert (ran.code, ran.err.count("\n")) == (1, 1), ran.err
