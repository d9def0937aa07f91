"""`modelfleet push`: from files to a signed, uploaded, published version; and everything that may go wrong on the way."""

import hashlib
import json
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from device_client.wire.bundles import FileRole
from fleet.domain.repository import Profile
from fleet.entrypoints.cli import uploads
from fleet.entrypoints.cli.commands import push
from fleet.ports.key_sets import RecordedRole
from fleet.wiring import cli as wiring
from tests.cli.conftest import CommandLine, onnx_bytes
from tests.fakes.release_server import ReleaseServerSimulator


def test_push__described_directory__signed_uploaded_published(
    modelfleet: CommandLine, server: ReleaseServerSimulator, model: str, keys: Path, release_dir: Path
) -> None:
    document = modelfleet.ok("push", model, release_dir, "--keys", keys, "--git-sha", "abc123", "--notes", "first")
    assert document["version"] == "1"
    assert document["state"] == "published"
    assert document["bytes_sent"] == document["bytes_total"] == sum(map(len, server.blobs.values()))
    target = server.newest(model).signed.targets[f"models/{model}/1/onnx-fp32-any.json"]
    manifest = server.manifests[model, "1"]
    assert target.hashes == {"sha256": manifest.digest}
    assert {file.role for file in manifest.files} == {FileRole.WEIGHTS, FileRole.LABELS, FileRole.GOLDEN}
    assert (
        manifest.contract.labels_sha256
        == hashlib.sha256((release_dir / "onnx-fp32-any/labels.txt").read_bytes()).hexdigest()
    )
    assert (manifest.requirements.opset, manifest.requirements.ir_version) == (17, 9)
    assert server.versions[model][0]["git_sha"] == "abc123"


def test_push__single_onnx_file__described_by_itself(
    modelfleet: CommandLine,
    server: ReleaseServerSimulator,
    model: str,
    keys: Path,
    onnx_file: Callable[..., Path],
) -> None:
    ran = modelfleet("push", model, onnx_file(), "--keys", keys, "--print", "version")
    assert (ran.code, ran.out) == (0, "1\n"), ran.err
    manifest = server.manifests[model, "1"]
    assert manifest.variant.slug == "onnx-fp32-any"
    assert manifest.contract.inputs["image"].shape == (None, 64)
    assert manifest.contract.outputs["scores"].dtype == "float32"


def test_push__again_with_other_bytes__next_version_beside_the_old(
    modelfleet: CommandLine, server: ReleaseServerSimulator, model: str, keys: Path, onnx_file: Callable[..., Path]
) -> None:
    assert modelfleet.ok("push", model, onnx_file(1), "--keys", keys)["version"] == "1"
    assert modelfleet.ok("push", model, onnx_file(2), "--keys", keys)["version"] == "2"
    assert sorted(server.newest(model).signed.targets) == [
        f"models/{model}/1/onnx-fp32-any.json",
        f"models/{model}/2/onnx-fp32-any.json",
    ]


def test_push__version_that_exists__refused_before_upload(
    modelfleet: CommandLine, server: ReleaseServerSimulator, model: str, keys: Path, onnx_file: Callable[..., Path]
) -> None:
    modelfleet.ok("push", model, onnx_file(1), "--keys", keys)
    blobs = dict(server.blobs)
    ran = modelfleet("push", model, onnx_file(2), "--keys", keys, "--version", "1")
    assert ran.code == 1
    assert "immutable" in ran.err
    assert server.blobs == blobs


def test_push__blobs_already_there__nothing_sent(
    modelfleet: CommandLine, model: str, keys: Path, onnx_file: Callable[..., Path]
) -> None:
    modelfleet.ok("push", model, onnx_file(), "--keys", keys)
    document = modelfleet.ok("push", model, onnx_file(), "--keys", keys)
    assert (document["version"], document["bytes_sent"]) == ("2", 0)


def test_push__connection_cut_in_a_chunk__goes_on_where_it_stopped(
    modelfleet: CommandLine,
    server: ReleaseServerSimulator,
    model: str,
    keys: Path,
    onnx_file: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(uploads, "CHUNK_BYTES", 2_000)
    monkeypatch.setattr(uploads, "FIRST_PAUSE_S", 0.01)
    server.cut_uploads = 2
    path = onnx_file()
    document = modelfleet.ok("push", model, path, "--keys", keys)
    assert server.blobs[hashlib.sha256(path.read_bytes()).hexdigest()] == path.read_bytes()
    assert document["bytes_sent"] == path.stat().st_size - 2_000  # two halves arrived with the cut chunks


def test_push__server_down_for_good__stops_and_a_later_run_resumes(
    modelfleet: CommandLine,
    server: ReleaseServerSimulator,
    model: str,
    keys: Path,
    onnx_file: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(uploads, "CHUNK_BYTES", 2_000)
    monkeypatch.setattr(uploads, "FIRST_PAUSE_S", 0.001)
    server.cut_uploads = 1_000
    path = onnx_file()
    ran = modelfleet("push", model, path, "--keys", keys)
    assert ran.code == 1
    assert "run again to go on" in ran.err
    assert server.newest(model).signed.version == 1
    server.cut_uploads = 0
    again = modelfleet("push", model, path, "--keys", keys)
    assert again.code == 0
    assert "resumed at" in again.err


LIES: dict[str, tuple[bytes, dict[str, object]]] = {
    "format_unknown": (onnx_bytes()[:-50], {}),
    "file_forbidden": (b"\x80\x04\x95" + b"0" * 100, {}),
    "precision_contradicted": (onnx_bytes(), {"precision": "int8"}),
    "contract_contradicted": (onnx_bytes(), {"inputs": {"image": ["float32", [1, 3]]}}),
}


@pytest.mark.parametrize("code", LIES)
def test_push__file_that_contradicts_its_label__refused_here_and_nothing_sent(
    modelfleet: CommandLine, server: ReleaseServerSimulator, model: str, keys: Path, release_dir: Path, code: str
) -> None:
    content, said = LIES[code]
    (release_dir / "onnx-fp32-any" / "model.onnx").write_bytes(content)
    description = json.loads((release_dir / "modelfleet.json").read_text())
    description["variants"][0]["precision"] = said.get("precision", "fp32")
    description["contract"]["inputs"] = said.get("inputs", description["contract"]["inputs"])
    (release_dir / "modelfleet.json").write_text(json.dumps(description))
    ran = modelfleet("--json", "push", model, release_dir, "--keys", keys)
    assert ran.code == 1
    assert json.loads(ran.err.splitlines()[-1])["error"]["code"] == code
    assert (server.blobs, server.uploads) == ({}, {})
    assert server.newest(model).signed.version == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "expected JSON"),
        ("[]", "expected an object"),
        ("{}", "expected a list of variants"),
        ('{"variants": [{"runtime": "onnx"}]}', "lacks 'precision'"),
        ('{"variants": [{"runtime": "onnx", "precision": "fp32", "weights": "../x"}]}', "expected a file name"),
        ('{"variants": [{"runtime": "onnx", "precision": "fp32", "weights": "no.onnx"}]}', "cannot read"),
        ('{"variants": [{"runtime": "onnx", "precision": "fp32", "weights": "a", "dir": "../.."}]}', "inside"),
        ('{"variants": [{"runtime": "ONNX", "precision": "fp32", "weights": "a"}]}', "variant"),
    ],
)
def test_push__description_malformed__one_line(
    modelfleet: CommandLine, model: str, keys: Path, release_dir: Path, content: str, words: str
) -> None:
    (release_dir / "modelfleet.json").write_text(content)
    ran = modelfleet("push", model, release_dir, "--keys", keys)
    assert ran.code == 1
    assert ran.err.count("\n") == 1
    assert words in ran.err


def test_push__directory_without_description__says_what_is_expected(
    modelfleet: CommandLine, model: str, keys: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    ran = modelfleet("push", model, tmp_path / "empty", "--keys", keys)
    assert ran.code == 1
    assert "modelfleet.json" in ran.err


def test_push__model_without_role__says_how_to_create_it(
    modelfleet: CommandLine, keys: Path, onnx_file: Callable[..., Path]
) -> None:
    ran = modelfleet("push", "vision.other", onnx_file(), "--keys", keys)
    assert ran.code == 1
    assert "models create vision.other" in ran.err


def test_push__publisher_down__accepted_but_said_so(
    modelfleet: CommandLine, server: ReleaseServerSimulator, model: str, keys: Path, onnx_file: Callable[..., Path]
) -> None:
    server.publishing = False
    ran = modelfleet("--json", "push", model, onnx_file(), "--keys", keys, "--timeout", "0.2")
    assert ran.code == 1
    assert json.loads(ran.err.splitlines()[-1])["error"]["code"] == "not_published"
    assert modelfleet("versions", model).out.count("publishing") == 1
    server.publishing = True
    server.publish()
    assert modelfleet.ok("push", model, onnx_file(2), "--keys", keys)["version"] == "2"


@pytest.fixture
def overtaken(
    modelfleet: CommandLine, model: str, keys: Path, onnx_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[[int, tuple[str, ...]], list[str]]:
    """Let another pipeline finish a push of the same model in the middle of this one's, a number of times."""
    real = uploads.upload

    def arrange(times: int, options: tuple[str, ...]) -> list[str]:
        others: list[str] = []
        busy: list[bool] = []

        def slow(*arguments: object, **named: object) -> int:
            if not busy and len(others) < times:
                busy.append(True)
                others.append(
                    modelfleet.ok("push", model, onnx_file(100 + len(others)), "--keys", keys, *options)["version"]
                )
                busy.clear()
            return real(*arguments, **named)  # type: ignore[arg-type]

        monkeypatch.setattr("fleet.entrypoints.cli.commands.push.upload", slow)
        return others

    return arrange


def test_push__two_pipelines_at_once__the_later_one_signs_again_on_top(
    modelfleet: CommandLine,
    server: ReleaseServerSimulator,
    model: str,
    keys: Path,
    onnx_file: Callable[..., Path],
    overtaken: Callable[[int, tuple[str, ...]], list[str]],
) -> None:
    others = overtaken(2, ())
    ran = modelfleet("--json", "push", model, onnx_file(1), "--keys", keys)
    assert ran.code == 0, ran.err
    assert (others, ran.json["version"]) == (["1", "2"], "3")
    assert ran.err.count("somebody else pushed vision.digits meanwhile: signing again on top of theirs") == 2
    assert ran.json["bytes_sent"] == ran.json["bytes_total"], "the file is sent once"
    assert len(server.newest(model).signed.targets) == 3


def test_published_roles__many_readers_share_a_key_set__each_reads_the_whole(
    modelfleet: CommandLine, keys: Path, model: str
) -> None:
    """`tuf.ngclient` removes and makes links in its directory: a reader beside it would find them missing."""
    url = modelfleet.environment["MODELFLEET_URL"]

    def read(_turn: int) -> int:
        repository = wiring.verified_roles(url, keys)
        found = [repository.top_level(), repository.of_model(model)]
        return sum(role.version for role in found if role is not None)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(read, range(48)))) == 1


def test_key_set__many_signers_at_once__every_role_keeps_its_highest_version(keys: Path) -> None:
    order = [(role, version) for version in range(2, 12) for role in ("a.b", "c.d", "e.f")]
    random.Random(1).shuffle(order)

    def record(item: tuple[str, int]) -> None:
        role, version = item
        wiring.key_set(keys).record(role, RecordedRole(version, f"{version:064x}", Profile.PROD))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(record, order))
    recorded = wiring.key_set(keys).recorded()
    assert {role: recorded[role].version for role in ("a.b", "c.d", "e.f")} == {"a.b": 11, "c.d": 11, "e.f": 11}


def test_push__overtaken_each_time__gives_up_in_one_line(
    modelfleet: CommandLine,
    model: str,
    keys: Path,
    onnx_file: Callable[..., Path],
    overtaken: Callable[[int, tuple[str, ...]], list[str]],
) -> None:
    overtaken(push.MAX_ATTEMPTS, ())
    ran = modelfleet("--json", "push", model, onnx_file(1), "--keys", keys)
    assert ran.code == 1
    assert json.loads(ran.err.splitlines()[-1])["error"]["code"] == "pushed_meanwhile"


def test_push__overtaken_by_the_very_label_that_was_asked_for__refused(
    modelfleet: CommandLine,
    server: ReleaseServerSimulator,
    model: str,
    keys: Path,
    onnx_file: Callable[..., Path],
    overtaken: Callable[[int, tuple[str, ...]], list[str]],
) -> None:
    overtaken(1, ("--version", "7"))
    ran = modelfleet("--json", "push", model, onnx_file(1), "--keys", keys, "--version", "7")
    assert ran.code == 1
    assert json.loads(ran.err.splitlines()[-1])["error"]["code"] == "version_exists"
    assert list(server.newest(model).signed.targets) == [f"models/{model}/7/onnx-fp32-any.json"]
