"""Gates as cards, from what the domain encodes; a device's timeline as updates; what updates took to fetch."""

from datetime import UTC, datetime, timedelta

from device_client.wire.states import Transport, UpdateState
from fleet.apps.devices.records import EventRecord
from fleet.domain.gate import judge
from fleet.domain.measure import measure
from fleet.domain.measurements import DeviceRow, Side, Total, grouped
from fleet.domain.policy import RolloutPolicy
from fleet.domain.strata import comparison
from fleet.domain.verdicts import ClassCount, OfferCount, PhaseCounts, PhaseFacts
from fleet.entrypoints.ui.downloads import downloads
from fleet.entrypoints.ui.gate_cards import GateCard, gate_cards, most_telling_first
from fleet.entrypoints.ui.updates import updates
from tests.ui.story import policy

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def cards(accuracy: float) -> dict[str, GateCard]:
    rows = [
        DeviceRow(
            f"{side.value}-{number}",
            "edge",
            side,
            {"accuracy": Total(100 * (of + (number % 3) / 100), 100), "slow": Total(1 + number % 3, 100)},
        )
        for side, of, count in ((Side.TREATED, accuracy, 6), (Side.CONTROL, 0.95, 12))
        for number in range(count)
    ]
    ramp = RolloutPolicy.parse(policy(0.25, 1.0))
    counts = PhaseCounts((ClassCount("edge", 6, 12, 24),))
    facts = PhaseFacts(
        phase=0,
        counts=counts,
        offers=(OfferCount("edge", offered=6, committed=5, failed=1),),
        measures=measure(ramp.gates, counts, comparison(counts, has_baseline=True), grouped(rows)),
    )
    judged = judge(ramp, facts).encode()
    return {card.name: card for card in gate_cards(judged["gates"])}


def test_card__of_a_failed_comparison__has_its_interval_wholly_beyond_the_margin() -> None:
    card = cards(0.5)["Accuracy"]
    assert (card.verdict, card.kind, card.limit_text) == ("fail", "control", "\N{MINUS SIGN}5.0")
    assert card.interval is not None
    assert card.interval.high_x < card.interval.limit_x
    assert card.interval.beyond_x == 0
    assert [(arm.name, arm.devices) for arm in card.arms] == [("treated", 6), ("control", 12)]
    assert card.strip is not None
    assert card.sentence.startswith("Accuracy is ")


def test_card__of_a_limit__has_its_bad_side_on_the_right() -> None:
    card = cards(0.95)["Latency"]
    assert (card.verdict, card.kind) == ("pass", "limit")
    assert card.interval is not None
    assert card.interval.beyond_x == card.interval.limit_x
    assert card.interval.reference_x is None


def test_card__of_installs__shows_what_became_of_the_planned_devices() -> None:
    card = cards(0.95)["Installs"]
    assert card.interval is None
    assert card.outcomes is not None
    assert [(part.name, part.count) for part in card.outcomes.parts] == [("committed", 5), ("failed", 1)]


def test_cards__failed_gates__come_first() -> None:
    assert most_telling_first(cards(0.5).values())[0].name == "Accuracy"


def test_cards__of_something_else__are_none() -> None:
    assert gate_cards(None) == gate_cards({}) == gate_cards(["x", 3]) == ()
    lone = gate_cards([{"name": "brand_new", "evidence": "text"}])[0]
    assert (lone.name, lone.interval, lone.arms) == ("brand new", None, ())


def event(state: UpdateState, at_s: float, version: str = "2", **report: object) -> EventRecord:
    at = NOW + timedelta(seconds=at_s)
    return EventRecord(at, at, "vision.digits", version, "r-1", state.value, report)


def test_updates__of_a_timeline__are_one_a_version_with_what_they_came_to() -> None:
    newest_first = [
        event(UpdateState.ROLLED_BACK, 40, "3", failure="probation", transport=Transport.DELTA.value),
        event(UpdateState.PROBATION, 30, "3"),
        event(UpdateState.COMMITTED, 20, transport="full", bytes_received=900, bytes_total=1_000),
        event(UpdateState.DOWNLOADING, 10, transport="full", bytes_received=100, resumed_from=50),
        event(UpdateState.ASSIGNED, 4),
    ]
    last, first = updates(newest_first)
    assert (last.version, last.tone, last.failure, last.transport) == ("3", "bad", "probation", "delta")
    assert (first.tone, first.took_s, first.bytes_received, first.resumed_from) == ("good", 16, 900, 50)
    assert [(step.state, step.after_s) for step in first.steps] == [
        ("assigned", None),
        ("downloading", 6),
        ("committed", 10),
    ]


def test_downloads__of_finished_updates__are_added_up_by_the_way_they_came() -> None:
    found = downloads(
        [
            event(UpdateState.COMMITTED, 3, transport="delta", bytes_received=10, bytes_total=100),
            event(UpdateState.COMMITTED, 2, transport="delta", bytes_received=20, bytes_total=100),
            event(UpdateState.PROBATION, 1, transport="delta", bytes_received=20, bytes_total=100),
            event(UpdateState.ROLLED_BACK, 1, transport="full", bytes_received=100, bytes_total=100),
            event(UpdateState.COMMITTED, 1),
        ]
    )
    assert [(line.way, line.updates, line.received_bytes, line.full_bytes) for line in found] == [
        ("by delta", 2, 30, 200),
        ("in full", 1, 100, 100),
    ]


def test_updates__of_no_timeline__are_none() -> None:
    assert updates([]) == ()
