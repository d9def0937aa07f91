"""What docs/rollouts.md tells people to write is what the parser takes."""

import json
import re
from pathlib import Path
from typing import Any

from fleet.domain.policy import RolloutPolicy
from fleet.domain.presets import PRESETS

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs/rollouts.md").read_text(encoding="utf-8")


def example() -> dict[str, Any]:
    """The policy of the document."""
    found = re.search(r"```json\n(.*?)```", DOCUMENT, re.DOTALL)
    assert found is not None
    parsed: dict[str, Any] = json.loads(found.group(1))
    return parsed


def test_document__example_policy__is_accepted() -> None:
    assert len(RolloutPolicy.parse(example()).phases) == 3


def test_document__example_policy__names_every_field() -> None:
    written, known = example(), RolloutPolicy.parse(example()).encode()
    assert set(written) == set(known) - {"preset"}
    gates: Any = known["gates"]
    assert {name: set(value) for name, value in written["gates"].items()} == {
        name: set(value) for name, value in gates.items()
    }


def test_document__presets__are_those_that_exist() -> None:
    sentence = DOCUMENT.split("Presets: ")[1].split("advances)")[0]
    assert set(re.findall(r"`([a-z-]+)`", sentence)) == set(PRESETS)
