"""`modelfleet-device` as a person meets it: enrolment, status, explanations, and every way to get it wrong."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from device_client import cli
from device_client.adapters import durable
from device_client.config import Config, load_config, parse_rate, state_paths
from device_client.core.errors import ConfigError
from device_client.wire import canonical
from fleet.adapters.device_authority import DeviceCertificateAuthority
from fleet.adapters.pki_files import SecretFiles
from tests.device.rig import MODEL, Rig, weights
from tests.fakes.update_server import UpdateServerSimulator

TOKEN = "mfc_secret"


@dataclass
class EnrolmentServer:
    """The three addresses that a new device calls."""

    authority: DeviceCertificateAuthority
    anchors: bytes
    claims: set[str] = field(default_factory=lambda: {TOKEN})
    url: str = ""
    requests: list[str] = field(default_factory=list)

    @property
    def pin(self) -> str:
        return hashlib.sha256(self.anchors).hexdigest()

    def respond(self, request: BaseHTTPRequestHandler) -> tuple[int, bytes, dict[str, str]]:
        self.requests.append(request.path)
        if request.path == "/device/v1/anchors":
            return 200, self.anchors, {}
        if request.path == "/device/v1/config":
            told = {"v": 1, "broker_host": "127.0.0.1", "broker_port": 1, "image_url": f"{self.url}/image"}
            return 200, json.dumps(told).encode(), {}
        body = request.rfile.read(int(request.headers.get("Content-Length", "0")))
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in self.claims:
            return 403, b'{"title": "Forbidden", "detail": "the claim was used before"}', {}
        self.claims.discard(token)
        issued = self.authority.issue(base64.b64decode(body), "cam-77", datetime.now(tz=UTC))
        answer = base64.encodebytes(self.authority.certs_only(issued.chain_pem))
        return 200, answer, {"X-Modelfleet-Device-Id": "cam-77", "X-Modelfleet-Hardware-Class": "edge-std"}


@contextmanager
def listening(server: EnrolmentServer) -> Iterator[None]:
    class Requests(BaseHTTPRequestHandler):
        def answer(self) -> None:
            status, body, headers = server.respond(self)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer  # noqa: N815 - as http.server calls them

        def log_message(self, *_: object) -> None: ...

    http = ThreadingHTTPServer(("127.0.0.1", 0), Requests)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_address[1]}"
    yield
    http.shutdown()
    http.server_close()


@pytest.fixture
def enrolment(tmp_path: Path) -> Iterator[EnrolmentServer]:
    secrets = SecretFiles(tmp_path / "secrets")
    secrets.ensure(server_names=["localhost"], now=datetime.now(tz=UTC))
    authority = secrets.device_authority()
    simulator = UpdateServerSimulator()
    anchors = canonical.encode(
        {
            "v": 1,
            "device_ca_pem": authority.anchor_pem(),
            "image_root": simulator.image_root.decode(),
            "director_root": simulator.director_root.decode(),
        }
    )
    server = EnrolmentServer(authority, anchors)
    with listening(server):
        yield server


def enroll(server: EnrolmentServer, state: Path, *more: str, token: str = TOKEN, pin: str | None = None) -> int:
    pin = server.pin if pin is None else pin
    return cli.main(["enroll", server.url, "--token", token, "--pin", pin, "--state", str(state), *more])


def test_enroll__good_claim__device_with_its_own_key(enrolment: EnrolmentServer, tmp_path: Path) -> None:
    state = tmp_path / "state"
    choices = ("--model", MODEL, "--hardware-class", "edge-std", "--precision", "int8", "--bandwidth", "2MB")
    assert enroll(enrolment, state, *choices, "--attribute", "site=north") == 0
    config = load_config(state_paths(state))
    assert (config.device_id, config.models, config.precisions) == ("cam-77", (MODEL,), ("int8",))
    assert (config.bandwidth_bytes_per_s, config.attributes) == (2_000_000, {"site": "north"})
    key = state / "identity" / "device.key"
    assert key.stat().st_mode & 0o077 == 0
    assert b"BEGIN PRIVATE KEY" in key.read_bytes()
    assert (state / "identity" / "anchors.json").read_bytes() == enrolment.anchors


@pytest.mark.parametrize(
    ("choice", "hardware_class"), [((), "edge-std"), (("--hardware-class", "edge-max"), "edge-max")]
)
def test_enroll__claim_has_a_class__is_the_devices_unless_a_person_chose_another(
    enrolment: EnrolmentServer, tmp_path: Path, choice: tuple[str, ...], hardware_class: str
) -> None:
    assert enroll(enrolment, tmp_path / "state", *choice) == 0
    assert load_config(state_paths(tmp_path / "state")).hardware_class == hardware_class


def test_enroll__other_anchors_than_pinned__claim_is_not_shown(
    enrolment: EnrolmentServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert enroll(enrolment, tmp_path / "state", pin="0" * 64) == 1
    assert "this is not the server you were told of" in capsys.readouterr().err
    assert enrolment.requests == ["/device/v1/anchors"]
    assert not (tmp_path / "state" / "device.json").exists()


def test_enroll__claim_used_before__servers_own_sentence(
    enrolment: EnrolmentServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert enroll(enrolment, tmp_path / "one") == 0
    assert enroll(enrolment, tmp_path / "two") == 1
    assert "the claim was used before" in capsys.readouterr().err
    assert not (tmp_path / "two" / "device.json").exists()


def test_enroll__wrong_choice__refused_before_anything_is_asked(enrolment: EnrolmentServer, tmp_path: Path) -> None:
    for wrong in (("--model", "Vision"), ("--bandwidth", "fast"), ("--attribute", "x"), ("--threads", "0")):
        assert enroll(enrolment, tmp_path / "state", *wrong) == 1
    assert enrolment.requests == []


def test_enroll__state_directory_has_a_device__refused_and_kept(enrolment: EnrolmentServer, tmp_path: Path) -> None:
    enrolment.claims.add("second")
    assert enroll(enrolment, tmp_path / "state") == 0
    before = (tmp_path / "state" / "device.json").read_bytes()
    assert enroll(enrolment, tmp_path / "state", token="second") == 1
    assert (tmp_path / "state" / "device.json").read_bytes() == before
    assert "second" in enrolment.claims


def test_commands__not_enrolled__one_line_that_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["status"], ["doctor"], ["explain", MODEL], ["rollback", MODEL], ["run"]):
        assert cli.main([*command, "--state", str(tmp_path / "none")]) == 1
        error = capsys.readouterr().err
        assert "modelfleet-device enroll" in error
        assert error.count("\n") == 1


def test_run__no_such_application__one_line(
    enrolment: EnrolmentServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert enroll(enrolment, tmp_path / "state") == 0
    for application in ("no.such.module:run", "json:nothing", "json"):
        assert cli.main(["run", "--state", str(tmp_path / "state"), "--app", application]) == 1
        assert application in capsys.readouterr().err


def test_run__second_agent_on_one_state__refused(
    enrolment: EnrolmentServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    assert enroll(enrolment, state) == 0
    with durable.exclusively(state / "lock"):
        assert cli.main(["run", "--state", str(state)]) == 1
    assert "in use by another agent" in capsys.readouterr().err


def test_doctor__broker_is_down__says_so_and_exits_1(
    enrolment: EnrolmentServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert enroll(enrolment, tmp_path / "state") == 0
    capsys.readouterr()
    assert cli.main(["doctor", "--state", str(tmp_path / "state"), "--json"]) == 1
    findings = {item["what"]: item["good"] for item in json.loads(capsys.readouterr().out)["findings"]}
    assert findings["broker"] is False
    assert all(good for what, good in findings.items() if what != "broker")


# ---------------------------------------------------------------- looking at a device that works


@pytest.fixture
def working(enrolment: EnrolmentServer, tmp_path: Path) -> Iterator[Rig]:
    """A device that has committed version 1 and was told of version 2, whose download has stopped in the middle."""
    state = tmp_path / "state"
    assert enroll(enrolment, state, "--model", MODEL) == 0
    with UpdateServerSimulator().serving() as server:
        rig = Rig(server, state, device_id="cam-77")
        server.assign("cam-77", server.push(MODEL, "1", weights(1.0)), rollout="r-000000000001")
        rig.start()
        rig.run_until(lambda: rig.deployment.state.value == "committed")
        second = server.push(MODEL, "2", weights(2.0))
        server.assign("cam-77", second, rollout="r-000000000002", because="canaries first")
        server.faults.cut_after_bytes, server.faults.cuts_left = 9_000, 1
        rig.clock.asleep = rig.cut_power
        with pytest.raises(BaseException, match="cut"):
            rig.poke()
        rig.unplug()
        yield rig


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert cli.main(list(arguments)) == 0
    return capsys.readouterr().out


def test_status__download_under_way__bytes_on_disk(working: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    state = str(working.state)
    told = json.loads(shown(capsys, "status", "--json", "--state", state))
    model = told["models"][MODEL]
    assert (model["state"], model["active_version"], model["target_version"]) == ("downloading", "1", "2")
    assert 9_000 <= model["bytes_done"] < model["bytes_to_fetch"]
    assert model["bytes_done"] / model["bytes_total"] > 0.3
    assert told["agent_running"] is False
    assert "2 by full" in shown(capsys, "status", "--state", state)


def test_explain__last_signed_answer__in_a_sentence(working: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "explain", MODEL, "--state", str(working.state))
    assert "canaries first" in text
    told = json.loads(shown(capsys, "explain", MODEL, "--json", "--state", str(working.state)))
    assert told["answer"]["version"] == "2"
    assert told["serving"]["version"] == "1"
    assert told["metadata"]["director/targets"]["version"] > 0
    assert cli.main(["explain", "other.model", "--state", str(working.state)]) == 1


def test_rollback__no_earlier_version__refused(working: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["rollback", MODEL, "--state", str(working.state)]) == 1
    assert "earlier version" in capsys.readouterr().err


# ---------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("text", "rate"), [("0", 0), ("300kB", 300_000), ("2MB/s", 2_000_000), ("1.5m", 1_500_000), ("64", 64)]
)
def test_parse_rate__as_people_write_it__bytes_per_second(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "changes",
    [
        {"v": 2},
        {"device_id": "Cam"},
        {"server_url": "ftp://x"},
        {"broker_port": 70_000},
        {"models": ["x"]},
        {"intra_op_threads": 0},
        {"attributes": {"a": 1}},
    ],
)
def test_config__broken_field__named(changes: dict[str, object]) -> None:
    good = Config("cam-01", "http://x", "h", 1, "http://x/image", models=(MODEL,))
    assert Config.parse(good.encode()) == good
    with pytest.raises(ConfigError, match=next(iter(changes)) if "models" not in changes else "expected"):
        Config.parse(json.dumps({**json.loads(good.encode()), **changes}).encode())
