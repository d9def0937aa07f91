"""A34: a server that is taken over must not get a pipeline to sign what it chose. It can only make the pipeline stop."""

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner

from fleet.domain import repository
from fleet.domain.repository import NamedTarget, Profile
from tests.cli.conftest import CommandLine, keys, model, modelfleet, onnx_file, server
from tests.fakes.release_server import ReleaseServerSimulator

__all__ = ["keys", "model", "modelfleet", "onnx_file", "server"]

EVIL = NamedTarget("models/vision.digits/666/onnx-fp32-any.json", 10, "e" * 64)


def _error(modelfleet: CommandLine, *words: str | Path) -> str:
    ran = modelfleet("--json", *words)
    assert ran.code == 1, ran.out
    return str(json.loads(ran.err.splitlines()[-1])["error"]["code"])


def _everything_signed(server: ReleaseServerSimulator) -> list[bytes]:
    return [payload for payloads in server.roles.values() for payload in payloads]


def test_a34_push__server_serves_older_role_with_fresh_timestamp__nothing_signed(
    modelfleet: CommandLine, server: ReleaseServerSimulator, model: str, keys: Path, onnx_file: Callable[..., Path]
) -> None:
    """The server holds the online keys, so it can publish any mixture of roles that were ever signed."""
    modelfleet.ok("push", model, onnx_file(1), "--keys", keys)
    modelfleet.ok("push", model, onnx_file(2), "--keys", keys)
    server.roles[model].pop()
    server.publish()
    shutil.rmtree(keys / "published")  # as in a fresh CI job: only what was signed is remembered
    before = _everything_signed(server)
    assert _error(modelfleet, "push", model, onnx_file(3), "--keys", keys, "--timeout", "0.1") == "role_rolled_back"
    assert _everything_signed(server) == before


def test_a34_push__server_serves_older_role_to_kept_metadata__refused_by_the_tuf_client(
    modelfleet: CommandLine, server: ReleaseServerSimulator, model: str, keys: Path, onnx_file: Callable[..., Path]
) -> None:
    modelfleet.ok("push", model, onnx_file(1), "--keys", keys)
    server.roles[model].pop()
    server.publish()
    assert _error(modelfleet, "push", model, onnx_file(3), "--keys", keys) == "metadata_unverifiable"


@pytest.mark.parametrize("signer", ["snapshot", "stranger"])
def test_a34_push__server_inserts_a_target_it_signed_itself__refused(
    modelfleet: CommandLine,
    server: ReleaseServerSimulator,
    model: str,
    keys: Path,
    onnx_file: Callable[..., Path],
    signer: str,
) -> None:
    key = server.signers["snapshot"] if signer == "snapshot" else CryptoSigner(Ed25519PrivateKey.generate())
    forged = repository.with_targets(server.newest(model).signed, [EVIL], profile=Profile.DEV, now=datetime.now(UTC))
    server.roles[model].append(repository.signed(forged, [key]))
    server.publish()
    assert _error(modelfleet, "push", model, onnx_file(1), "--keys", keys) == "metadata_unverifiable"
    assert server.versions == {}


def test_a34_push__server_delegates_the_model_to_a_key_of_its_own__refused(
    modelfleet: CommandLine, server: ReleaseServerSimulator, model: str, keys: Path, onnx_file: Callable[..., Path]
) -> None:
    stranger = CryptoSigner(Ed25519PrivateKey.generate())
    forged = repository.with_model(
        server.newest("targets").signed, model=model, keys=[stranger.public_key], threshold=1, now=datetime.now(UTC)
    )
    server.roles["targets"].append(repository.signed(forged, [stranger]))
    server.publish()
    assert _error(modelfleet, "push", model, onnx_file(1), "--keys", keys) == "metadata_unverifiable"


def test_a34_push__server_lies_about_version_labels__only_numbers_are_skipped(
    modelfleet: CommandLine, server: ReleaseServerSimulator, model: str, keys: Path, onnx_file: Callable[..., Path]
) -> None:
    server.versions[model] = [
        {"model": model, "version": label, "state": "published", "variants": []} for label in ("41", "../../x", "7")
    ]
    assert modelfleet.ok("push", model, onnx_file(1), "--keys", keys)["version"] == "42"


def test_a34_push__another_server_with_its_own_roots__refused(
    modelfleet: CommandLine, model: str, keys: Path, tmp_path: Path, onnx_file: Callable[..., Path]
) -> None:
    with ReleaseServerSimulator().serving() as other:
        modelfleet.environment["MODELFLEET_URL"] = other.url
        modelfleet.ok("keys", "init", tmp_path / "others", "--no-passphrase")
        assert _error(modelfleet, "push", model, onnx_file(1), "--keys", keys) == "metadata_unverifiable"


def test_a34_signed_json__damaged__refused_rather_than_forgotten(
    modelfleet: CommandLine, model: str, keys: Path, onnx_file: Callable[..., Path]
) -> None:
    for content in ("", "{}", '{"v": 1, "roles": {"vision.digits": {"version": "x"}}}'):
        (keys / "signed.json").write_text(content)
        assert _error(modelfleet, "push", model, onnx_file(1), "--keys", keys) == "keys_unusable"
