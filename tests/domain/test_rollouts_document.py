"""What docs/rollouts.md tells people to write is what the parser takes."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fleet.domain.errors import InvalidInputError
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


LIMITS = re.findall(
    r"^\| `([a-z_.\[\]]+)` \| [^|]+ \| ([-0-9.]+) \| ([-0-9.]+) \| ([-0-9.]+) \|$", DOCUMENT, re.MULTILINE
)


def holding(field: str, value: float | None) -> dict[str, Any]:
    """The least policy in which `field` stands; None leaves it out, and lets its default hold."""
    *outer, name = field.split(".")
    number = int(value) if value is not None and value == int(value) else value
    said: dict[str, Any] = {} if number is None else {name: number}
    if outer == ["phases[]"]:
        return {"phases": [said if name in {"share", "count"} else {"share": 1, **said}]}
    for part in reversed(outer):
        said = {part: said}
    return {"phases": [{"share": 1}], **said}


def held(policy: RolloutPolicy, field: str) -> Any:
    found: Any = policy.encode()
    for part in field.split("."):
        found = found["phases"][0] if part == "phases[]" else found[part]
    return found


def test_document__limits__are_of_every_number() -> None:
    assert len(LIMITS) == 33


@pytest.mark.parametrize(("field", "default", "least", "most"), LIMITS, ids=[item[0] for item in LIMITS])
def test_document__limits__are_those_of_the_parser(field: str, default: str, least: str, most: str) -> None:
    if default != "-":
        assert held(RolloutPolicy.parse(holding(field, None)), field) == float(default)
    for limit, beyond in ((float(least), -1), (float(most), 1)):
        assert held(RolloutPolicy.parse(holding(field, limit)), field) == limit
        too_far = limit + beyond * (abs(limit) * 1e-3 or 1e-6)
        with pytest.raises(InvalidInputError):
            RolloutPolicy.parse(holding(field, too_far))
