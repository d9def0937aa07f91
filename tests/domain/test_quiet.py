from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.domain.errors import InvalidInputError
from fleet.domain.quiet import QuietHours, window_of


def quiet(*windows: str) -> QuietHours:
    return QuietHours.parse([window_of(item) for item in windows])


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_until__no_windows__is_never_quiet() -> None:
    assert QuietHours().until(at("2026-03-07T12:00")) is None


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("2026-03-06T20:59", None),  # Friday, 21:59 in Berlin
        ("2026-03-06T21:00", "2026-03-07T05:00"),
        ("2026-03-07T04:59", "2026-03-07T05:00"),  # Saturday morning belongs to Friday's window
        ("2026-03-07T05:00", None),
        ("2026-03-08T03:00", None),  # Saturday night is not among the days
    ],
    ids=["just before", "opening", "after midnight", "closing", "the next night"],
)
def test_until__window_over_midnight__belongs_to_the_day_it_begins_on(moment: str, expected: str | None) -> None:
    found = quiet("fri 22:00-06:00 Europe/Berlin").until(at(moment))
    assert found == (None if expected is None else at(expected))


def test_until__windows_without_a_gap__end_with_the_last() -> None:
    weekend = quiet("fri 18:00-24:00 UTC", "sat,sun 00:00-24:00 UTC")
    assert weekend.until(at("2026-03-06T19:00")) == at("2026-03-09T00:00")
    assert weekend.until(at("2026-03-09T00:00")) is None


@pytest.mark.parametrize(
    ("moment", "hours"),
    [("2026-03-28T22:00", 6), ("2026-10-24T21:00", 8)],
    ids=["the night that loses an hour", "the night that has one twice"],
)
def test_until__daylight_saving__the_wall_clock_counts(moment: str, hours: int) -> None:
    """From 23:00 to 06:00 in Berlin: seven hours on other nights."""
    start = at(moment)
    assert quiet("daily 23:00-06:00 Europe/Berlin").until(start) == start + timedelta(hours=hours)


def test_until__hour_that_the_clock_skips__does_not_exist() -> None:
    """From 02:00 to 03:00 on the night on which 02:00 is 03:00."""
    night = quiet("daily 02:00-03:00 Europe/Berlin")
    assert night.until(at("2026-03-29T00:59")) is None
    assert night.until(at("2026-03-29T01:00")) is None


def test_until__windows_of_two_zones_that_cover_everything__still_answers() -> None:
    assert quiet("daily 00:00-13:00 UTC", "daily 12:00-01:00 UTC").until(at("2026-03-06T12:00")) is not None


@given(st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)))  # noqa: DTZ001 - naive, then given a zone
@settings(deadline=None, max_examples=200)
def test_until__any_moment__the_end_is_after_it_and_not_quiet(moment: datetime) -> None:
    chosen = quiet("mon,fri 21:30-05:15 America/New_York", "sat 00:00-24:00 Australia/Lord_Howe")
    now = moment.replace(tzinfo=UTC)
    end = chosen.until(now)
    if end is not None:
        assert end > now
        assert chosen.until(end) is None
        assert chosen.until(end - timedelta(seconds=1)) == end


def test_parse__what_was_encoded__is_equal_and_says_the_same_words() -> None:
    words = ("fri,sat 22:00-06:00 Europe/Berlin", "daily 12:00-13:00,18:00-19:00 UTC")
    found = quiet(*words)
    assert QuietHours.parse(found.encode()) == found
    assert found.words == words


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("always", "quiet_hours: expected a list of at most 16 windows, got str"),
        ([{"time_zone": "UTC"}] * 17, "got 17 windows"),
        ([{"days": ["sat"], "hours": ["00:00-24:00"]}], r"quiet_hours\[0\].time_zone: expected an IANA time zone"),
        ([{"time_zone": "Mars/Base"}], r"quiet_hours\[0\].time_zone: expected .* got 'Mars/Base'"),
        ([{"time_zone": "device", "hours": ["01:00-02:00"]}], "got 'device'"),
        ([{"time_zone": "UTC", "days": ["day"]}], r"quiet_hours\[0\].days: expected some of mon"),
        ([{"time_zone": "UTC", "hours": ["25:00-26:00"]}], "expected hours such as 22:00-06:00"),
        ([{"time_zone": "UTC", "from": "22:00"}], r"quiet_hours\[0\]: expected only days, hours, time_zone, got from"),
        ([{"time_zone": "UTC"}], "expected some hour of the week that is not quiet"),
    ],
    ids=["text", "too many", "no zone", "other planet", "device time", "day", "hours", "stranger", "always"],
)
def test_parse__what_cannot_be__is_refused_with_what_was_expected(asked: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message) as refused:
        QuietHours.parse(asked)
    assert refused.value.code == "quiet_hours_invalid"


def test_window_of__too_few_words__says_how_it_is_written() -> None:
    with pytest.raises(InvalidInputError, match="such as sat,sun 00:00-24:00 Europe/Berlin, got 'sat 22:00-06:00'"):
        window_of("sat 22:00-06:00")
