"""The rollout benchmark itself, on fleets that are made in a second: its JSON, and what it calls a miss."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.bench import rollout

OPERATIONS = {"create", "advance", "halt", "resume", "revert", "tick", "tick_revert", "count", "dry_run"}


def row(operation: str, devices: int, **figures: Any) -> dict[str, Any]:
    return {
        "db": "sqlite",
        "devices": devices,
        "operation": operation,
        "ms_p50": 5.0,
        "ms_p95": 9.0,
        "sql": 20,
        "publishes": 1,
        "n": 3,
        **figures,
    }


@pytest.mark.slow
def test_benchmark__two_small_fleets__every_operation_of_both(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    words = ["--devices", "600,1500", "--db", "sqlite", "--repeats", "1", "--json", str(out)]
    assert rollout.main(words) == 0, "the number of statements depends on the fleet's size"
    document = json.loads(out.read_text())
    for devices in (600, 1500):
        found = {item["operation"]: item for item in document["results"] if item["devices"] == devices}
        assert set(found) >= OPERATIONS
        assert all(item["ms_p95"] >= item["ms_p50"] > 0 and item["sql"] > 0 for item in found.values())
        assert {found[name]["publishes"] for name in ("count", "advance", "halt", "resume", "revert")} == {1}
        assert {found[name]["publishes"] for name in ("create", "tick")} == {0}
    assert document["assign_per_s"] > 0
    assert [item["filters"]["matching"] for item in document["fleets"]] == [180, 450]


def test_constant__statements_grow_with_the_fleet__said() -> None:
    assert rollout.constant(
        [row("create", 1_000), row("create", 10_000), row("count", 1_000), row("count", 10_000, sql=9)]
    )
    assert not rollout.constant([row("create", 1_000), row("create", 10_000, sql=21)])
    assert not rollout.constant([row("halt", 1_000), row("halt", 10_000, publishes=2)])


def test_misses__slow_operation__one_sentence() -> None:
    slow = [row("create", 1_000, ms_p50=101.0), row("tick", 1_000, ms_p50=900.0), row("page /", 1_000, ms_p50=151.0)]
    said = list(rollout.misses({"results": slow, "constant": True, "assign_per_s": 30_000}))
    assert [sentence.split(",")[0] for sentence in said] == ["create on sqlite", "page / on sqlite"]
    assert list(rollout.misses({"results": [], "constant": False, "assign_per_s": 100})) == [
        "statements or publishes depend on the fleet's size",
        "assign: 100 calls a second, at least 20,000",
    ]
