"""What a look at a phase reads as columns, against the rows that it is made of."""

import random
from collections import defaultdict

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from fleet.apps.telemetry import pasts, selectors
from fleet.apps.telemetry.models import DeviceTotal, GateTotal
from tests.server.catalogue import NOW

pytestmark = pytest.mark.django_db

METRICS = ("accuracy", "errors", "custom.score")
EARLIER = pasts.Earlier(rule_id=1, phase=1, model="vision.digits", version="1", slow_ms=50.0)


def gate_totals(dice: random.Random) -> list[GateTotal]:
    """Devices of two rules, on either side or both, in up to three phases, some without some metric."""
    return [
        GateTotal(
            rule_id=rule_id,
            phase=phase,
            device_id=f"dev-{device}",
            hardware_class=f"class-{device % 3}",
            side=side,
            metric=metric,
            numerator=dice.choice([dice.uniform(-3, 50), float(dice.randrange(100)), 1e300]),
            denominator=dice.uniform(0, 100),
            squares=dice.uniform(0, 1_000),
            updated_at=NOW,
        )
        for rule_id in (1, 2)
        for phase in range(3)
        for device in range(25)
        for side in ("treated", "control")
        for metric in METRICS
        if dice.random() < 0.6
    ]


def device_totals(dice: random.Random) -> list[DeviceTotal]:
    counts = ("n", "errors", "nan", "timed", "slow", "labels", "correct", "compared", "agreed")
    return [
        DeviceTotal(
            device_id=f"dev-{device}",
            model=model,
            version=version,
            slow_ms=slow_ms,
            updated_at=NOW,
            **{name: dice.randrange(10**12) for name in counts},
        )
        for device in range(30)
        for model in ("vision.digits", "vision.other")
        for version in ("1", "2")
        for slow_ms in (50.0, 80.0)
        if dice.random() < 0.5
    ]


@pytest.fixture
def stored() -> None:
    dice = random.Random(7)
    GateTotal.objects.bulk_create(gate_totals(dice))
    DeviceTotal.objects.bulk_create(device_totals(dice))


def test_phase_totals__random_totals__as_the_rows_are(stored: None) -> None:
    asked = {"accuracy": False, "custom.score": True, "crashes": False}
    with CaptureQueriesContext(
        connection,
    ) as queries:
        found = selectors.phase_totals(rule_id=1, phase=1, metrics=asked)
    assert len(queries) == 1
    seen = {
        (device_id, name, side, metric): (numerator, denominator, squares)
        for (name, side), table in found.items()
        for metric, columns in table.totals.items()
        for device_id, numerator, denominator, squares in zip(
            table.ids, columns[0], columns[1], columns[2] or [0.0] * len(table.ids), strict=True
        )
        if denominator
    }
    rows = GateTotal.objects.filter(rule_id=1, phase=1, metric__in=asked)
    assert seen == {
        (row.device_id, row.hardware_class, row.side, row.metric): (
            row.numerator,
            row.denominator,
            row.squares if asked[row.metric] else 0.0,
        )
        for row in rows
    }
    everybody = set(GateTotal.objects.filter(rule_id=1, phase=1).values_list("device_id", "side"))
    assert {(device_id, side) for (_, side), table in found.items() for device_id in table.ids} == everybody


def by_rows(keeping: set[str]) -> dict[tuple[str, str], tuple[float, float]]:
    """The pasts of `EARLIER`, row by row."""
    sums: defaultdict[tuple[str, str, int], float] = defaultdict(float)
    for row in DeviceTotal.objects.filter(model=EARLIER.model, version=EARLIER.version):
        for metric, columns in pasts.PAST_METRICS.items():
            if metric != "slow" or row.slow_ms == EARLIER.slow_ms:
                for place, column in enumerate(columns):
                    sums[row.device_id, metric, place] += getattr(row, column)
    known = {device_id for device_id, _, _ in sums}
    for total in GateTotal.objects.filter(
        rule_id=EARLIER.rule_id, phase__lte=EARLIER.phase, metric__in=pasts.PAST_METRICS
    ):
        if total.device_id in known and (total.side == "control" or total.device_id in keeping):
            sums[total.device_id, total.metric, 0] -= total.numerator
            sums[total.device_id, total.metric, 1] -= total.denominator
    return {
        (device_id, metric): (sums[device_id, metric, 0], sums[device_id, metric, 1])
        for device_id, metric, place in sums
        if place == 0 and sums[device_id, metric, 1] > 0
    }


@pytest.mark.parametrize("keeping", [set(), {"dev-1", "dev-2", "dev-3"}], ids=["a rollout", "an experiment"])
def test_pasts__random_totals__less_what_the_rule_measured(
    stored: None, keeping: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pasts, "IDS_AT_ONCE", 7)
    ids = [f"dev-{device}" for device in range(40)]
    known = pasts.pasts(EARLIER, ids, keeping=keeping)
    seen = {
        (device_id, metric): tuple(total[:2])
        for device_id in ids
        for metric in pasts.PAST_METRICS
        if (total := pasts.past_of(known, device_id, metric)) is not None
    }
    assert seen.keys() == by_rows(keeping).keys()
    for key, expected in by_rows(keeping).items():
        assert seen[key] == pytest.approx(expected, rel=1e-12), key


def test_kept_pasts__looked_at_again__those_read_longest_ago_are_read_anew(
    stored: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pasts, "AGAIN", 10)
    ids = [f"dev-{device}" for device in range(30)]
    cache = pasts.PastCache()
    before = dict(cache.of(EARLIER, ids))
    assert set(before) == set(ids)
    assert {device_id for device_id, past in before.items() if past != pasts.NO_PAST} == set(pasts.pasts(EARLIER, ids))
    DeviceTotal.objects.all().delete()
    GateTotal.objects.all().delete()
    changed = [dict(cache.of(EARLIER, ids)) for _ in range(3)]
    emptied = [{device_id for device_id in ids if found[device_id] == pasts.NO_PAST} for found in changed]
    assert emptied[0] >= set(ids[:10])
    assert set(ids[:20]) <= emptied[1]
    assert emptied[2] == set(ids)
    assert cache.of(pasts.Earlier(2, 1, "vision.digits", "1", 50.0), ids)["dev-0"] == pasts.NO_PAST
