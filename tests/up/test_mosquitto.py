"""Finding and fetching the broker, with a fake apt on PATH where the real one must not be asked."""

from pathlib import Path

import pytest

from fleet.entrypoints.up.errors import BrokerMissingError
from fleet.entrypoints.up.mosquitto import find_mosquitto


def program(directory: Path, name: str, script: str) -> None:
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def only_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with what a test puts into it; the system's own directories are looked at by nobody."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    monkeypatch.setattr("fleet.entrypoints.up.mosquitto.SYSTEM_DIRECTORIES", ())
    return directory


def test_find_mosquitto__installed__is_used(tmp_path: Path, only_path: Path) -> None:
    program(only_path, "mosquitto", "echo mosquitto version 2.0.18")
    found = find_mosquitto(tmp_path / "tools", lambda _: None)
    assert found.executable == only_path / "mosquitto"
    assert not (tmp_path / "tools").exists()


def test_find_mosquitto__nothing_here_and_no_apt__one_line_that_helps(tmp_path: Path, only_path: Path) -> None:
    with pytest.raises(BrokerMissingError, match="no apt-get to fetch it with: install mosquitto"):
        find_mosquitto(tmp_path / "tools", lambda _: None)


def test_find_mosquitto__installed_one_is_too_old__is_left_alone(tmp_path: Path, only_path: Path) -> None:
    program(only_path, "mosquitto", "echo mosquitto version 1.6.9")
    said: list[str] = []
    with pytest.raises(BrokerMissingError):
        find_mosquitto(tmp_path / "tools", said.append)
    assert "older than mosquitto 2.0" in said[0]


def test_find_mosquitto__apt_knows_no_packages__fetches_lists_of_its_own_and_says_why_it_failed(
    tmp_path: Path, only_path: Path
) -> None:
    program(only_path, "apt-get", 'echo "$@" >> ' + str(tmp_path / "asked") + '\necho "E: no network" >&2\nexit 100')
    program(only_path, "dpkg", "exit 0")
    with pytest.raises(BrokerMissingError, match=r"could not be fetched \(E: no network\)"):
        find_mosquitto(tmp_path / "tools", lambda _: None)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert "--simulate" in asked[0]
    assert "Dir::State::lists=" in asked[1]
    assert asked[1].endswith("update -qq")
    # Nothing half-fetched is left to be taken for a broker.
    assert [path.name for path in (tmp_path / "tools").iterdir()] == [".lock"]


def test_find_mosquitto__already_unpacked__apt_is_not_asked(tmp_path: Path, only_path: Path) -> None:
    unpacked = tmp_path / "tools" / "mosquitto" / "usr" / "sbin"
    unpacked.mkdir(parents=True)
    program(unpacked, "mosquitto", "echo mosquitto version 2.0.11")
    library = tmp_path / "tools" / "mosquitto" / "usr" / "lib" / "x"
    library.mkdir(parents=True)
    (library / "libcjson.so.1").touch()
    found = find_mosquitto(tmp_path / "tools", lambda _: None)
    assert found.executable == unpacked / "mosquitto"
    assert found.environment == {"LD_LIBRARY_PATH": str(library)}


def test_find_mosquitto__unpacked_one_does_not_run__says_so(tmp_path: Path, only_path: Path) -> None:
    (tmp_path / "tools" / "mosquitto").mkdir(parents=True)
    with pytest.raises(BrokerMissingError, match="does not run here"):
        find_mosquitto(tmp_path / "tools", lambda _: None)
