"""What `manage.py up` says when it cannot begin."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import OperationalError

from fleet.entrypoints.up.management.commands.up import Command


def test_up__database_takes_nothing__one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: Any) -> None:
        raise OperationalError("database or disk is full")

    monkeypatch.setattr(settings, "MODELFLEET", replace(settings.MODELFLEET, home=tmp_path / "home"))
    monkeypatch.setattr(Command, "_run", full)
    with pytest.raises(CommandError) as raised:
        call_command("up")
    assert str(raised.value) == f"the database of {tmp_path / 'home'}: database or disk is full"
