"""The end of the demo's story: figures add up, and a figure that is not as told is named."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import pytest

from fleet.demo import report
from fleet.demo.observations import COMMITTED, Candidate, Event, bytes_by
from fleet.demo.progress import Progress

NOW: Final = datetime(2026, 3, 1, tzinfo=UTC)
UPDATE: Final = Event(
    device_id="cam-01",
    seen_at=NOW,
    version="2",
    state=COMMITTED,
    active_version="2",
    transport="delta",
    failure="",
    bytes_received=140,
    bytes_total=1_040,
    resumed_from=0,
    digest="d2",
)
EXPERIMENT: Final = {
    "verdict": "ship",
    "lower": 0.09,
    "upper": 0.25,
    "srm": {"mismatch": False, "p": 1.0},
}
REVERT: Final = {
    "rollout": "r-1",
    "version": "5",
    "action": "revert",
    "verdict": "fail",
    "sentence": "FAIL: the share of inferences slower than 5 ms is 90% to 100%",
}
MADE: Final = [Candidate("d2", "tensor1", 100, 1_000), Candidate("d2", "bsdiff4", 300, 1_000)]


def observed(*events: Event) -> report.Observed:
    return report.Observed(
        devices=[],
        events=events,
        performance=[],
        decisions=[],
        candidates=MADE,
        witness_served=0,
        witness_failed=0,
        killed="cam-01",
        experiment=EXPERIMENT,
        seconds=1.0,
    )


def test_bytes_by__patch_of_that_codec__stands_for_the_file_and_the_rest_stays() -> None:
    assert bytes_by("tensor1", [UPDATE, UPDATE], MADE) == 2 * 140
    assert bytes_by("bsdiff4", [UPDATE], MADE) == 340


def test_bytes_by__no_patch_or_one_that_is_larger__the_whole_file() -> None:
    assert bytes_by("bsdiff4", [replace(UPDATE, digest="other")], MADE) == 1_040
    assert bytes_by("bsdiff4", [UPDATE], [Candidate("d2", "bsdiff4", 1_001, 1_000)]) == 1_040


def test_build__updates__sent_in_full_and_by_each_codec() -> None:
    first = replace(UPDATE, version="1", digest="d1", transport="full", bytes_received=1_040)
    built = report.build(observed(first, UPDATE))
    assert (built["bytes_sent"], built["bytes_full"], built["bytes_first_install"]) == (140, 1_040, 1_040)
    assert (built["bytes_tensor1"], built["bytes_bsdiff4"]) == (140, 340)
    assert "59 % less than the 0.00 MiB of bsdiff4 patches" in report.table(built)
    assert not {"tensor1 smaller than bsdiff4", "the smaller patches shipped"} & set(report.failures(built, 0))


def test_failures__larger_patches_shipped__named() -> None:
    shipped = report.build(observed(replace(UPDATE, bytes_received=340)))
    assert "the smaller patches shipped" in report.failures(shipped, 0)


SLOW: Final = [
    replace(UPDATE, device_id=f"cam-{number:02d}", version="5", active_version="5", digest="d5") for number in range(4)
]


def test_failures__experiment_without_a_winner_or_on_unlike_arms__named() -> None:
    told = report.build(observed())
    assert not {"the A/B test won by v2, its whole interval above zero", "devices on the arms as meant"} & set(
        report.failures(told, 0)
    )
    unlike = {**EXPERIMENT, "lower": -0.01, "srm": {"mismatch": True, "p": 1e-6}}
    named = report.failures(report.build(replace(observed(), experiment=unlike)), 0)
    assert {"the A/B test won by v2, its whole interval above zero", "devices on the arms as meant"} <= set(named)
    assert "SAMPLE-RATIO MISMATCH" in report.table(report.build(replace(observed(), experiment=unlike)))


def test_build__slow_version__stopped_by_its_latency_and_by_nothing_else() -> None:
    back = [replace(event, version="2", active_version="2", digest="d2") for event in SLOW]
    built = report.build(replace(observed(*SLOW, *back), decisions=[REVERT]))["slow_model"]
    assert (built["exposed"], built["stopped_by_latency"], built["seconds_to_revert"]) == (4, True, 0.0)
    otherwise = {**REVERT, "sentence": "FAIL: 2 of 4 installs failed"}
    named = report.failures(report.build(replace(observed(*SLOW), decisions=[otherwise])), 0)
    assert "v5 on 4 devices, stopped for its latency" in named
    assert "every device that had v5 back on v2" in named


def test_decision__of_several_gates__has_a_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    Progress().decided(
        "complete", "PASS: 4 of 4 devices installed it; 4 devices; PASS: accuracy is 1; devices fall as meant"
    )
    first, *others = capsys.readouterr().out.splitlines()
    assert first.endswith(" s] complete: PASS: 4 of 4 devices installed it; 4 devices")
    assert [line.strip() for line in others] == ["PASS: accuracy is 1", "devices fall as meant"]
