"""Every test that docs/threats.md names exists."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_threats__each_control__has_the_test_that_is_named() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "threats.md").read_text()))
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    assert named
    assert named <= defined, sorted(named - defined)
