"""The directory of secrets: made once, renewed in time, never damaged."""

import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fleet.adapters.pki_files import (
    INTERNAL_IDENTITIES,
    LEAF_LIFETIME,
    ONLINE_ROLES,
    SecretFiles,
    SecretsUnusableError,
    write_atomically,
)
from fleet.adapters.x509_build import server_names_of

NOW = datetime(2026, 3, 1, tzinfo=UTC)
NAMES = frozenset({"localhost", "127.0.0.1"})


@pytest.fixture
def files(tmp_path: Path) -> SecretFiles:
    found = SecretFiles(tmp_path / "secrets")
    found.ensure(server_names=NAMES, now=NOW)
    return found


def contents(files: SecretFiles) -> dict[str, bytes]:
    return {
        str(path.relative_to(files.directory)): path.read_bytes()
        for path in files.directory.rglob("*")
        if path.is_file()
    }


def certificate(files: SecretFiles, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(files.path(name).read_bytes())


def changed(files: SecretFiles, before: dict[str, bytes]) -> set[str]:
    return {name for name, content in contents(files).items() if before.get(name) != content}


def test_ensure__empty_directory__makes_everything(files: SecretFiles) -> None:
    expected = {".lock", "web.key"}
    expected |= {f"{stem}.{kind}" for stem in ("device_ca", "internal_ca", "broker") for kind in ("key", "crt")}
    expected |= {f"internal/{stem}.{kind}" for stem in (*INTERNAL_IDENTITIES, "broker") for kind in ("key", "crt")}
    expected |= {f"online/{role}.pem" for role in ONLINE_ROLES}
    assert set(contents(files)) == expected


def test_ensure__keys__readable_by_their_owner_only(files: SecretFiles) -> None:
    for path in files.directory.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        if path.is_dir():
            assert mode == 0o700, path
        elif path.suffix in {".key", ".pem"}:
            assert mode == 0o600, path
    assert stat.S_IMODE(files.directory.stat().st_mode) == 0o700


def test_ensure__key_was_opened_to_others__is_closed_again(files: SecretFiles) -> None:
    files.path("web.key").chmod(0o644)
    files.ensure(server_names=NAMES, now=NOW)
    assert stat.S_IMODE(files.path("web.key").stat().st_mode) == 0o600


def test_ensure__again__changes_nothing(files: SecretFiles) -> None:
    before = contents(files)
    files.ensure(server_names=NAMES, now=NOW + timedelta(days=100))
    assert contents(files) == before


def test_ensure__by_several_at_once__all_agree(tmp_path: Path) -> None:
    files = SecretFiles(tmp_path / "secrets")

    def ensure(_number: int) -> None:
        SecretFiles(files.directory).ensure(server_names=NAMES, now=NOW)

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(ensure, range(6)))
    issuer = certificate(files, "device_ca.crt")
    certificate(files, "broker.crt").verify_directly_issued_by(issuer)


@pytest.mark.parametrize(
    "names", [{"localhost", "127.0.0.1", "192.168.1.10", "Fleet.Example.org", "fd00:0::1"}, {"localhost"}]
)
def test_ensure__reached_under_other_names__server_certificate_names_them(files: SecretFiles, names: set[str]) -> None:
    before = contents(files)
    files.ensure(server_names=names, now=NOW)
    expected = {name.lower().replace("fd00:0::1", "fd00::1") for name in names}
    assert server_names_of(certificate(files, "broker.crt")) == expected
    assert "broker.key" not in changed(files, before)
    assert "device_ca.crt" not in changed(files, before)
    again = contents(files)
    files.ensure(server_names=names, now=NOW)
    assert contents(files) == again


def test_ensure__past_half_life__leaves_are_renewed_and_authorities_and_keys_stay(files: SecretFiles) -> None:
    before = contents(files)
    later = NOW + LEAF_LIFETIME / 2
    files.ensure(server_names=NAMES, now=later)
    assert changed(files, before) == {"broker.crt", "internal/broker.crt"} | {
        f"internal/{identity}.crt" for identity in INTERNAL_IDENTITIES
    }
    assert certificate(files, "broker.crt").not_valid_after_utc == later + LEAF_LIFETIME


@pytest.mark.parametrize("stem", ["device_ca", "internal_ca", "broker", "internal/_director"])
def test_ensure__certificate_without_its_key__refused_and_nothing_is_replaced(files: SecretFiles, stem: str) -> None:
    files.path(f"{stem}.key").unlink()
    before = contents(files)
    with pytest.raises(SecretsUnusableError, match="restore it from a backup"):
        files.ensure(server_names=NAMES, now=NOW)
    assert contents(files) == before


def test_ensure__interrupted_between_key_and_certificate__goes_on_with_the_key(files: SecretFiles) -> None:
    key = files.path("device_ca.key").read_bytes()
    for name in ("device_ca.crt", "broker.crt"):
        files.path(name).unlink()
    files.ensure(server_names=NAMES, now=NOW)
    assert files.path("device_ca.key").read_bytes() == key
    certificate(files, "broker.crt").verify_directly_issued_by(certificate(files, "device_ca.crt"))


@pytest.mark.parametrize("name", ["device_ca.key", "device_ca.crt", "broker.crt"])
def test_ensure__file_is_garbage__says_which(files: SecretFiles, name: str) -> None:
    files.path(name).write_bytes(b"garbage")
    with pytest.raises(SecretsUnusableError, match=name):
        files.ensure(server_names=NAMES, now=NOW)


def test_online_key_pem__each_role__an_ed25519_key_of_its_own(files: SecretFiles) -> None:
    keys = {files.online_key_pem(role) for role in ONLINE_ROLES}
    assert len(keys) == len(ONLINE_ROLES)
    for pem in keys:
        assert isinstance(load_pem_private_key(pem, None), Ed25519PrivateKey)
    with pytest.raises(ValueError, match="root"):
        files.online_key_pem("root")


def test_device_authority__not_prepared__says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SecretsUnusableError, match=r"run `manage\.py prepare`"):
        SecretFiles(tmp_path).device_authority()


def test_write_atomically__fails_half_way__old_content_stays_and_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_atomically(path, b"old", 0o600)
    with pytest.raises(TypeError):
        write_atomically(path, "not bytes", 0o600)  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["secret"]
