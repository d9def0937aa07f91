"""What `manage.py prepare` leaves on the disk."""

from dataclasses import replace
from pathlib import Path

import pytest
from django.conf import settings

from fleet.config.environment import PostgresServer, SqliteFile
from fleet.wiring import installation


@pytest.mark.parametrize("existing", [(), ("db.sqlite3",), ("db.sqlite3", "db.sqlite3-wal", "db.sqlite3-shm")])
def test_prepare_database_file__whatever_was_there__only_its_owner_reads_it(
    existing: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in existing:
        (tmp_path / name).write_bytes(b"kept")
        (tmp_path / name).chmod(0o644)
    database = SqliteFile(tmp_path / "db.sqlite3")
    monkeypatch.setattr(settings, "MODELFLEET", replace(settings.MODELFLEET, database=database))
    installation.prepare_database_file()
    assert {path.name for path in tmp_path.iterdir()} == {"db.sqlite3", *existing}
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    assert [(tmp_path / name).read_bytes() for name in existing] == [b"kept"] * len(existing)


def test_prepare_database_file__postgres__nothing_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = PostgresServer("db", None, "fleet", "fleet", "")
    monkeypatch.setattr(settings, "MODELFLEET", replace(settings.MODELFLEET, home=tmp_path, database=database))
    installation.prepare_database_file()
    assert list(tmp_path.iterdir()) == []
