"""`modelfleet keys`: what is made, who can read it, and that nothing is overwritten or lost."""

import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner

from fleet.domain import repository
from fleet.domain.repository import Profile
from tests.cli.conftest import CommandLine
from tests.fakes.release_server import ReleaseServerSimulator

NAMES = ("image-root", "image-targets", "director-root", "pipeline")


def test_keys_init__new_directory__private_encrypted_and_imported(
    modelfleet: CommandLine, server: ReleaseServerSimulator, tmp_path: Path
) -> None:
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("correct horse battery\n")
    directory = tmp_path / "deep" / "keys"
    document = modelfleet.ok("keys", "init", directory, "--passphrase-file", passphrase)
    assert document["encrypted"] is True
    assert set(document["keys"]) == set(NAMES)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for name in NAMES:
        pem = directory / f"{name}.pem"
        assert stat.S_IMODE(pem.stat().st_mode) == 0o600
        with pytest.raises(TypeError):
            load_pem_private_key(pem.read_bytes(), None)
        load_pem_private_key(pem.read_bytes(), b"correct horse battery")
    assert server.roles["root"] == [(directory / "anchors/image-root.json").read_bytes()]
    assert not [path for path in directory.parent.iterdir() if path.name.startswith(".")]


def test_keys_init__existing_key_set__refused_and_untouched(modelfleet: CommandLine, keys: Path) -> None:
    before = {path: path.read_bytes() for path in keys.rglob("*") if path.is_file()}
    ran = modelfleet("keys", "init", keys, "--no-passphrase")
    assert ran.code == 1
    assert "never overwritten" in ran.err
    assert {path: path.read_bytes() for path in keys.rglob("*") if path.is_file()} == before


def test_keys_init__within_the_servers_home__refused(modelfleet: CommandLine, tmp_path: Path) -> None:
    modelfleet.environment["MODELFLEET_HOME"] = str(tmp_path / "server")
    ran = modelfleet("keys", "init", tmp_path / "server" / "keys", "--no-passphrase")
    assert ran.code == 1
    assert "out of its reach" in ran.err
    assert not (tmp_path / "server").exists()


def test_keys_init__no_terminal_and_no_passphrase__refused_before_anything_is_made(
    modelfleet: CommandLine, tmp_path: Path
) -> None:
    ran = modelfleet("keys", "init", tmp_path / "keys")
    assert ran.code == 1
    assert "--no-passphrase" in ran.err
    assert not (tmp_path / "keys").exists()


def test_keys_init__unwritable_directory__one_line(modelfleet: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ran = modelfleet("keys", "init", tmp_path / "file" / "keys", "--no-passphrase")
    assert ran.code == 1
    assert ran.err.count("\n") == 1
    assert "cannot write" in ran.err


def test_keys_init__server_has_roots__keys_kept_and_said_where(
    modelfleet: CommandLine, keys: Path, tmp_path: Path
) -> None:
    ran = modelfleet("keys", "init", tmp_path / "second", "--no-passphrase")
    assert ran.code == 1
    assert str(tmp_path / "second") in ran.err
    assert (tmp_path / "second" / "keys.json").exists()
    assert modelfleet("keys", "import", tmp_path / "second").code == 1


def test_keys_show__key_set__names_keys_without_their_secrets(modelfleet: CommandLine, keys: Path) -> None:
    ran = modelfleet("keys", "show", keys)
    assert ran.code == 0
    assert all(name in ran.out for name in NAMES)
    assert "PRIVATE" not in ran.out


def test_key_file__readable_by_others__refused(
    modelfleet: CommandLine, model: str, keys: Path, release_dir: Path
) -> None:
    (keys / "pipeline.pem").chmod(0o644)
    ran = modelfleet("push", model, release_dir, "--keys", keys)
    assert ran.code == 1
    assert "expected mode 600" in ran.err


def test_key_file__wrong_passphrase__refused_in_one_line(
    modelfleet: CommandLine, server: ReleaseServerSimulator, tmp_path: Path
) -> None:
    modelfleet.environment["MODELFLEET_KEYS_PASSPHRASE"] = "correct horse battery"
    modelfleet.ok("keys", "init", tmp_path / "keys")
    modelfleet.environment["MODELFLEET_KEYS_PASSPHRASE"] = "wrong horse battery"
    ran = modelfleet("models", "create", "vision.digits", "--keys", tmp_path / "keys")
    assert ran.code == 1
    assert ran.err.count("\n") == 1
    assert "another passphrase" in ran.err
    assert server.newest("targets").signed.version == 1


def test_key_file__of_another_key__refused(modelfleet: CommandLine, keys: Path) -> None:
    (keys / "pipeline.pem").write_bytes((keys / "image-root.pem").read_bytes())
    ran = modelfleet("models", "create", "vision.digits", "--keys", keys)
    assert ran.code == 1
    assert "is not the pipeline key" in ran.err


@pytest.mark.parametrize("content", ["", "[]", '{"v": 2}', '{"v": 1, "keys": {"pipeline": {}}}'])
def test_keys_json__damaged__one_line(modelfleet: CommandLine, keys: Path, content: str) -> None:
    (keys / "keys.json").write_text(content)
    ran = modelfleet("keys", "show", keys)
    assert ran.code == 1
    assert ran.err.count("\n") == 1
    assert "keys.json" in ran.err


def test_keys_show__no_key_set__says_how_to_make_one(modelfleet: CommandLine, tmp_path: Path) -> None:
    ran = modelfleet("keys", "show", tmp_path)
    assert ran.code == 1
    assert "keys init" in ran.err


def test_keys_refresh__nothing_old__signs_nothing(modelfleet: CommandLine, model: str, keys: Path) -> None:
    assert modelfleet.ok("keys", "refresh", keys) == {"signed": []}


def test_keys_refresh__all__every_known_role_rises_by_one(
    modelfleet: CommandLine, server: ReleaseServerSimulator, model: str, keys: Path
) -> None:
    before = {role: server.newest(role).signed.version for role in ("targets", model)}
    modelfleet.ok("keys", "refresh", keys, "--all")
    assert {role: server.newest(role).signed.version - 1 for role in before} == before
    assert json.loads((keys / "signed.json").read_text())["roles"][model]["version"] == before[model] + 1


def test_keys_refresh__role_past_half_of_its_life__signed_again(
    modelfleet: CommandLine, server: ReleaseServerSimulator, model: str, keys: Path
) -> None:
    old = repository.extended(server.newest(model).signed, lifetime=timedelta(days=10), now=datetime.now(UTC))
    pem = load_pem_private_key((keys / "pipeline.pem").read_bytes(), None)
    server._take(model, repository.signed(old, [CryptoSigner(pem)]))
    assert modelfleet.ok("keys", "refresh", keys)["signed"] == [{"role": model, "version": old.signed.version + 1}]
    lifetime = repository.MODEL_ROLE_LIFETIMES[Profile.DEV]
    assert server.newest(model).signed.expires > datetime.now(UTC) + lifetime - timedelta(hours=1)
