"""What a device tells of its moment: power, load, space, time zone, and what its owner wrote down."""

from pathlib import Path

import pytest

from device_client.adapters.surroundings import TOLD, present, time_zone


def supply(root: Path, name: str, kind: str, online: str) -> None:
    (root / name).mkdir(parents=True)
    (root / name / "type").write_text(f"{kind}\n")
    (root / name / "online").write_text(f"{online}\n")


@pytest.mark.parametrize(("battery", "mains", "charging"), [(False, "0", True), (True, "0", False), (True, "1", True)])
def test_present__power__is_mains_or_no_battery_at_all(
    tmp_path: Path, *, battery: bool, mains: str, charging: bool
) -> None:
    supply(tmp_path / "power", "AC", "Mains", mains)
    if battery:
        supply(tmp_path / "power", "BAT0", "Battery", "1")
    assert present(tmp_path, power=tmp_path / "power").charging is charging


def test_present__nothing_to_read__is_not_told(tmp_path: Path) -> None:
    found = present(tmp_path, power=tmp_path / "none", memory=tmp_path / "none")
    assert (found.charging, found.free_ram_bytes, found.metered) == (None, None, None)
    assert found.free_disk_bytes is not None


@pytest.mark.parametrize("broken", ["", "[]", "{", '{"metered": 3}', '{"idle": "yes"}'])
def test_present__owner_wrote_nonsense__what_was_measured_stands(tmp_path: Path, broken: str) -> None:
    (tmp_path / TOLD).write_text(broken)
    found = present(tmp_path, power=tmp_path / "none")
    assert (found.metered, found.charging) == (None, None)


def test_present__owner_says_it__comes_first(tmp_path: Path) -> None:
    (tmp_path / TOLD).write_text('{"metered": false, "charging": true}')
    found = present(tmp_path, power=tmp_path / "none")
    assert (found.metered, found.charging) == (False, True)


def test_time_zone__link_of_the_system__gives_its_name(tmp_path: Path) -> None:
    (tmp_path / "localtime").symlink_to("/usr/share/zoneinfo/Europe/Berlin")
    assert time_zone(tmp_path / "localtime") == "Europe/Berlin"
    assert time_zone(tmp_path / "none") == ""
