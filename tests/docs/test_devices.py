"""The table of states in docs/devices.md is the machine's."""

import re
from pathlib import Path

from device_client.core import machine
from device_client.core.deployment import Restarted
from device_client.wire.states import UpdateState
from tests.device.test_machine import deployment

ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(r"^\| `(\w+)` \| [^|]+ \| `(\w+)` \|$", re.MULTILINE)


def test_states__table_in_the_document__is_the_machines() -> None:
    rows = ROW.findall((ROOT / "docs" / "devices.md").read_text(encoding="utf-8"))
    assert [state for state, _ in rows] == [state.value for state in UpdateState]
    for state, leads in rows:
        after, _ = machine.step(deployment(UpdateState(state)), Restarted(clean=False, has_earlier=True), 1)
        assert after.state.value == leads


def test_crash_loop__figure_in_the_document__is_the_machines() -> None:
    text = " ".join((ROOT / "docs" / "devices.md").read_text(encoding="utf-8").split())
    assert machine.MAX_RESTARTS == 3
    assert "More than three unclean restarts" in text
    assert f"each within {machine.STEADY_S:g} seconds of the one before" in text
