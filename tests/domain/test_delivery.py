"""When a device may take a version: hours in zones with changes of the clock, conditions, pace. Pure."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_client.wire.errors import WireError
from device_client.wire.fields import Fields
from device_client.wire.messages import Present
from fleet.domain.calendar import Calendar, known_zone, parse_calendar
from fleet.domain.conditions import Conditions
from fleet.domain.delivery import parse_delivery
from fleet.domain.errors import InvalidInputError
from fleet.domain.pacing import MAX_DEVICES, Growth, Pacing, Traffic, admit

BERLIN = ZoneInfo("Europe/Berlin")


def calendar(*hours: str, days: tuple[str, ...] = (), zone: str = "device", **more: str) -> Calendar:
    said = {"days": list(days) or None, "hours": list(hours) or None, "time_zone": zone, **more}
    return parse_calendar(Fields(said, "c"), "c", zone="device")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_calendar__inside_and_outside__says_when_it_opens() -> None:
    night = calendar("22:00-06:00", zone="UTC")
    assert night.opens_at(at("2026-03-02T23:00")) is None
    assert night.opens_at(at("2026-03-03T05:59")) is None
    assert night.opens_at(at("2026-03-03T06:00")) == at("2026-03-03T22:00")


def test_calendar__night_of_friday__goes_on_into_saturday_and_no_further() -> None:
    friday = calendar("22:00-06:00", days=("fri",), zone="UTC")
    assert friday.opens_at(at("2026-03-07T05:00")) is None  # a Saturday
    assert friday.opens_at(at("2026-03-07T22:30")) == at("2026-03-13T22:00")


def test_calendar__device_zone__is_the_devices_or_the_named_one_instead() -> None:
    early = calendar("02:00-04:00", unknown_time_zone="America/New_York")
    assert early.opens_at(at("2026-03-02T01:30"), BERLIN) is None
    assert early.opens_at(at("2026-03-02T01:30")) == at("2026-03-02T07:00")
    assert calendar("02:00-04:00").opens_at(at("2026-03-02T02:30")) is None


def test_calendar__clock_changes__hours_are_the_walls() -> None:
    """Berlin loses 02:00 to 03:00 on 29 March 2026 and has it twice on 25 October."""
    one_hour = calendar("02:00-03:00", zone="Europe/Berlin")
    assert one_hour.opens_at(at("2026-03-29T01:00")) == at("2026-03-30T00:00")
    assert one_hour.opens_at(at("2026-10-25T00:00")) is None
    assert one_hour.opens_at(at("2026-10-25T01:59")) is None
    assert one_hour.opens_at(at("2026-10-25T02:00")) == at("2026-10-26T01:00")


def test_calendar__no_days_no_hours__always_open() -> None:
    assert calendar().opens_at(at("2026-03-02T12:00"), BERLIN) is None
    assert calendar().longest_closed_s == 0
    assert calendar().least_open_s(86_400) == 86_400


def test_calendar__workdays__longest_closure_is_the_weekend() -> None:
    work = calendar("08:00-17:00", days=("mon", "tue", "wed", "thu", "fri"), zone="UTC")
    assert work.longest_closed_s == (48 + 15) * 3_600
    assert work.least_open_s(86_400) == 0
    assert work.least_open_s(7 * 86_400) == 5 * 9 * 3_600
    assert work.least_open_s(14 * 86_400) == 10 * 9 * 3_600


@given(
    st.integers(0, 365 * 86_400).map(lambda second: at("2026-01-01T00:00") + timedelta(seconds=second)),
    st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Kolkata", "Pacific/Apia", "UTC"]),
    st.lists(st.tuples(st.integers(0, 23), st.integers(1, 24)), min_size=1, max_size=3),
    st.sets(st.sampled_from(["mon", "wed", "sun"]), min_size=1),
)
def test_calendar__whenever__what_it_names_is_ahead_and_open(
    now: datetime, zone: str, hours: list[tuple[int, int]], days: set[str]
) -> None:
    said = [f"{start:02}:00-{end:02}:00" for start, end in hours if start != end]
    if not said:
        return
    found = calendar(*said, days=tuple(days), zone=zone)
    opens_at = found.opens_at(now)
    if opens_at is not None:
        assert now < opens_at <= now + timedelta(days=9)
        # A window that falls into an hour that the clock skips is over when it begins.
        assert found.opens_at(opens_at) is None or opens_at.astimezone(known_zone(zone)).hour in (2, 3)


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ({"days": ["monday"]}, "days"),
        ({"hours": ["2-4"]}, "hours"),
        ({"hours": ["02:00-02:00"]}, "hours"),
        ({"hours": ["02:00-24:30"]}, "hours"),
        ({"time_zone": "Mars/Olympus"}, "time_zone"),
        ({"time_zone": "../../etc/passwd"}, "time_zone"),
        ({"unknown_time_zone": "device"}, "unknown_time_zone"),
    ],
)
def test_calendar__broken__says_which_field(said: dict[str, object], names: str) -> None:
    with pytest.raises((InvalidInputError, WireError), match=names):
        parse_calendar(Fields(said, "policy.windows"), "policy.windows", zone="device")


def test_delivery__encoded__reads_back() -> None:
    said = {
        "windows": {"days": ["mon"], "hours": ["22:00-06:00"]},
        "conditions": {"charging": True, "free_disk_bytes": 10},
        "pacing": {"in_flight": 5, "growth": {"start": 2, "factor": 2, "every": 10}},
    }
    found = parse_delivery(Fields(said, "policy"), "policy")
    assert parse_delivery(Fields(found.encode(), "policy"), "policy") == found


def test_conditions__what_a_device_does_not_tell__is_not_met() -> None:
    asked = Conditions(unmetered=True, charging=True, idle=True, free_disk_bytes=3 * 2**20, free_ram_bytes=1)
    assert [sentence.count("does not tell") for sentence in asked.unmet(Present())] == [1, 1, 1, 1, 1]
    met = Present(metered=False, charging=True, idle=True, free_disk_bytes=3 * 2**20, free_ram_bytes=1)
    assert asked.unmet(met) == ()
    short = Present(metered=True, charging=True, idle=True, free_disk_bytes=2**20, free_ram_bytes=1)
    assert asked.unmet(short) == ("its network is unmetered", "3 MiB of disk are free (it has 1)")
    assert Conditions().unmet(Present(metered=True, charging=False)) == ()


# ---------------------------------------------------------------- pace


def traffic(*, in_flight: int = 0, last_minute: int = 0, committed: int = 0) -> Traffic:
    return Traffic(in_flight, last_minute, committed, offered=100, expected=1_000)


def test_admit__below_the_caps__now() -> None:
    pace = Pacing(in_flight=10, per_minute=5)
    assert admit(pace, traffic(in_flight=9, last_minute=4), 0.5) is None
    assert admit(Pacing(), traffic(in_flight=10**6), 0.5) is None


def test_admit__at_a_cap__waits_spread_over_what_is_left() -> None:
    by_minute = admit(Pacing(per_minute=5), traffic(last_minute=5), 0.1)
    assert by_minute is not None
    assert "cap is 5 a minute" in by_minute.sentence
    assert by_minute.after_s == pytest.approx(60 * 0.1 * 900 / 5)
    by_flight = admit(Pacing(in_flight=10), traffic(in_flight=10), 0.0)
    assert by_flight is not None
    assert by_flight.after_s == 15


def test_rate__grows_with_what_succeeded__up_to_the_cap() -> None:
    pace = Pacing(per_minute=100, growth=Growth(start=10, factor=2, every=50))
    assert [pace.rate(done) for done in (0, 49, 50, 100, 150, 200, 10**9)] == [10, 10, 20, 40, 80, 100, 100]


@pytest.mark.parametrize("factor", [1.0 + 1e-12, 1.001, 2.0, 100.0], ids=["least", "slow", "double", "largest"])
def test_rate__however_many_succeeded__never_falls_and_is_a_number(factor: float) -> None:
    pace = Pacing(growth=Growth(start=1, factor=factor, every=1))
    rates = [pace.rate(done) for done in (0, 10, 155, 200, 1_000, 10**7)]
    assert rates == sorted(rates)
    assert rates[0] == 1
    assert rates[-1] <= MAX_DEVICES
    if factor > 1.0001:
        assert rates[-1] == MAX_DEVICES


@given(
    st.integers(0, 20),
    st.integers(0, 60),
    st.none() | st.builds(Growth, st.integers(1, 20), st.floats(1.1, 3), st.integers(1, 50)),
    st.integers(0, 2_000),
)
def test_needed__any_pace__is_what_a_minute_by_minute_count_gives(
    in_flight: int, per_minute: int, growth: Growth | None, devices: int
) -> None:
    """Never more than counting minutes one by one, in which no device fails; at most a minute per step of growth less."""
    pace = Pacing(in_flight=0, per_minute=per_minute, growth=growth)
    if pace.rate(0) == 0 and growth is None:
        assert pace.needed_s(devices, each_s=0) == 0
        return
    done = minutes = 0
    while done < devices:
        done += pace.rate(done)
        minutes += 1
    assert pace.needed_s(devices, each_s=0) <= 60 * minutes + 1e-6
    capped = Pacing(in_flight=in_flight)
    assert capped.needed_s(devices, each_s=30) == (30 * -(-devices // in_flight) if in_flight else 0)


def test_pacing__growth_that_does_not_grow__is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"growth\.factor"):
        parse_delivery(Fields({"pacing": {"growth": {"start": 1, "factor": 1, "every": 1}}}, "policy"), "policy")
    with pytest.raises(WireError, match="per_minut"):
        parse_delivery(Fields({"pacing": {"per_minut": 1}}, "policy"), "policy")
