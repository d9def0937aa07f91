"""`modelfleet keys`: what is made, who can read it, and that nothing is overwritten or lost."""

import json
import os
import select
import shutil
import stat
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner

from fleet.domain import repository
from fleet.domain.repository import Profile
from tests.cli.conftest import CommandLine
from tests.fakes.release_server import TOKEN, ReleaseServerSimulator

# Makes the terminal the controlling one, which is where passphrases are asked for.
TERMINAL = (
    "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    "from fleet.entrypoints.cli.__main__ import main; sys.exit(main())"
)
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
    with ReleaseServerSimulator().serving() as fresh:
        ran = modelfleet("keys", "init", keys, "--no-passphrase", "--url", fresh.url)
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


def test_keys_init__server_has_roots__nothing_made(modelfleet: CommandLine, keys: Path, tmp_path: Path) -> None:
    ran = modelfleet("keys", "init", tmp_path / "second", "--no-passphrase")
    assert ran.code == 1
    assert "has roots already" in ran.err
    assert not (tmp_path / "second").exists()


def test_keys_init__import_fails__keys_kept_and_imported_later(
    modelfleet: CommandLine, server: ReleaseServerSimulator, tmp_path: Path
) -> None:
    server.deaf_to_roots = True
    ran = modelfleet("keys", "init", tmp_path / "keys", "--no-passphrase")
    assert ran.code == 1
    assert "keys import" in ran.err
    server.deaf_to_roots = False
    modelfleet.ok("keys", "import", tmp_path / "keys")
    assert server.roles["root"] == [(tmp_path / "keys/anchors/image-root.json").read_bytes()]


def test_key_set__only_what_a_pipeline_needs__push_works(
    modelfleet: CommandLine, model: str, keys: Path, release_dir: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "ci"
    (copy / "anchors").mkdir(parents=True)
    for name in ("keys.json", "pipeline.pem", "anchors/image-root.json", "signed.json"):
        shutil.copy(keys / name, copy / name)
    assert modelfleet.ok("push", model, release_dir, "--keys", copy)["version"] == "1"
    assert "image-root.pem" not in {path.name for path in copy.iterdir()}


def test_key_set__uri_of_an_unknown_kind__says_which_are_known(
    modelfleet: CommandLine, model: str, keys: Path, release_dir: Path
) -> None:
    document = json.loads((keys / "keys.json").read_text())
    document["keys"]["pipeline"]["uri"] = "crystal:ball"
    (keys / "keys.json").write_text(json.dumps(document))
    ran = modelfleet("push", model, release_dir, "--keys", keys)
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "awskms" in ran.err


def test_key_set__file_elsewhere_by_absolute_path__used(
    modelfleet: CommandLine, model: str, keys: Path, release_dir: Path, tmp_path: Path
) -> None:
    document = json.loads((keys / "keys.json").read_text())
    (keys / "pipeline.pem").rename(tmp_path / "mounted.pem")
    document["keys"]["pipeline"]["uri"] = f"file:{tmp_path / 'mounted.pem'}"
    (keys / "keys.json").write_text(json.dumps(document))
    assert modelfleet.ok("push", model, release_dir, "--keys", keys)["version"] == "1"


def test_keys_init__at_a_terminal__asks_twice_and_echoes_nothing(
    server: ReleaseServerSimulator, tmp_path: Path
) -> None:
    shown, code = _typed(
        ["keys", "init", str(tmp_path / "keys")], ["correct horse", "correct horse"], server, home=tmp_path
    )
    assert code == 0, shown
    assert "correct" not in shown
    load_pem_private_key((tmp_path / "keys/pipeline.pem").read_bytes(), b"correct horse")


def test_keys_init__at_a_terminal_two_different_words__refused(server: ReleaseServerSimulator, tmp_path: Path) -> None:
    shown, code = _typed(
        ["keys", "init", str(tmp_path / "keys")], ["correct horse", "wrong horse"], server, home=tmp_path
    )
    assert code == 1
    assert "two different ones" in shown
    assert not (tmp_path / "keys").exists()


def _typed(words: list[str], answers: list[str], server: ReleaseServerSimulator, *, home: Path) -> tuple[str, int]:
    """Run the command at a terminal of its own and answer its prompts; what it showed, and its exit code."""
    main, other = os.openpty()
    environment = {**os.environ, "HOME": str(home), "MODELFLEET_URL": server.url, "MODELFLEET_TOKEN": TOKEN}
    environment.pop("MODELFLEET_HOME", None)
    process = subprocess.Popen(
        [sys.executable, "-c", TERMINAL, *words], stdin=other, stdout=other, stderr=other, env=environment,
        start_new_session=True,
    )  # fmt: skip
    os.close(other)
    shown = b""
    waiting = list(answers)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not select.select([main], [], [], 0.2)[0]:
            continue
        try:
            chunk = os.read(main, 4096)
        except OSError:  # Linux tells so that the other side is closed
            break
        shown += chunk
        if chunk.endswith(b": ") and waiting:
            os.write(main, waiting.pop(0).encode() + b"\n")
    os.close(main)
    return shown.decode(), process.wait(60)


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
