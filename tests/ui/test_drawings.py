"""The geometry of the drawings, and how values are worded."""

import pytest

from fleet.apps.devices.records import RunningCount
from fleet.entrypoints.ui.drawings.course import Point, draw_course
from fleet.entrypoints.ui.drawings.forest import Interval, draw_forest
from fleet.entrypoints.ui.drawings.heat import draw_heat
from fleet.entrypoints.ui.drawings.interval import draw_interval
from fleet.entrypoints.ui.drawings.outcomes import draw_installs, draw_silence
from fleet.entrypoints.ui.drawings.population import draw_population
from fleet.entrypoints.ui.drawings.strip import draw_strip
from fleet.entrypoints.ui.wording import age_in_words, badge_for, bytes_in_words, gist, told


def test_interval__lower_is_worse__region_beyond_the_margin_is_on_the_left() -> None:
    drawing = draw_interval(estimate=-0.30, low=-0.36, high=-0.27, limit=-0.05, lower_is_worse=True, reference=0.0)
    assert drawing.low_x < drawing.estimate_x < drawing.high_x < drawing.limit_x
    assert drawing.reference_x is not None
    assert drawing.limit_x < drawing.reference_x
    assert (drawing.beyond_x, drawing.beyond_width) == (0.0, drawing.limit_x)


def test_interval__higher_is_worse__region_beyond_the_limit_is_on_the_right() -> None:
    drawing = draw_interval(estimate=0.02, low=0.0, high=0.09, limit=0.2, lower_is_worse=False, reference=None)
    assert drawing.high_x < drawing.limit_x
    assert drawing.beyond_x == drawing.limit_x
    assert drawing.beyond_x + drawing.beyond_width == pytest.approx(100)
    assert drawing.reference_x is None


def test_interval__without_any_width__still_has_a_place() -> None:
    drawing = draw_interval(estimate=0.0, low=0.0, high=0.0, limit=0.0, lower_is_worse=True, reference=0.0)
    assert 0 <= drawing.low_x <= 100
    assert drawing.low_x == drawing.high_x == drawing.limit_x


def test_interval__unbounded_ends__stay_in_the_picture() -> None:
    drawing = draw_interval(
        estimate=0.0, low=float("-inf"), high=float("inf"), limit=-0.05, lower_is_worse=True, reference=0.0
    )
    assert 0 <= drawing.low_x < drawing.high_x <= 100


def test_population__quarter_treated_half_control__adds_up() -> None:
    drawing = draw_population(treated_end=250_000, control_start=500_000)
    assert (drawing.treated_width, drawing.control_x, drawing.control_width) == (25.0, 50.0, 50.0)


def test_heat__counts__newest_version_first_and_shares_of_the_class() -> None:
    heat = draw_heat(
        [
            RunningCount("9", "edge", 3, 3),
            RunningCount("10", "edge", 1, 1),
            RunningCount("", "edge", 1, 0),
            RunningCount("9", "tiny", 2, 0, silent=2),
        ]
    )
    assert [row.version for row in heat.rows] == ["10", "9", ""]
    assert heat.classes == ("edge", "tiny")
    assert [cell.share for cell in heat.rows[1].cells] == [0.6, 0.0]
    assert heat.rows[1].away == heat.away == 2
    assert heat.total == 5


def test_heat__every_share__has_a_step_of_its_own_range() -> None:
    heat = draw_heat([RunningCount("1", "a", 100, 0), RunningCount("2", "b", 1, 0), RunningCount("1", "b", 99, 0)])
    steps = {(row.version, cell.hardware_class): cell.step for row in heat.rows for cell in row.cells}
    assert steps == {("1", "a"): 6, ("1", "b"): 6, ("2", "b"): 1, ("2", "a"): 0}


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (4_512_000, "4.5 MB"), (999_950, "1.0 MB")]
)
def test_bytes__in_words__have_at_most_three_figures(count: int, words: str) -> None:
    assert bytes_in_words(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(2, "now"), (59, "59 s ago"), (3_599, "59 min ago"), (-7_300, "in 2 h"), (200_000, "2 d ago")],
)
def test_age__in_words__names_the_largest_whole_unit(seconds: float, words: str) -> None:
    assert age_in_words(seconds) == words


def test_badge__unknown_word__is_shown_as_it_is() -> None:
    assert badge_for("brand_new").word == "brand new"


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        ("PASS: a (limit 1); b; PASS: c carried over: PASS: d", "All 2 gates passed"),
        (
            "PASS: installs are fine; FAIL: accuracy is lower (margin 5); 4 and 8 devices",
            "Accuracy is lower (margin 5); 4 and 8 devices",
        ),
        ("FAIL: accuracy is lower", "Accuracy is lower"),
        ("PASS: all is well", "All is well"),
        ("PASS: a carried over from phase 2: PASS: a is fine", "A carried over from phase 2: a is fine"),
        ("stopped: by hand", "Stopped: by hand"),
        ("", ""),
    ],
)
def test_gist__of_a_sentence_about_gates__is_what_did_not_pass(sentence: str, said: str) -> None:
    assert gist(sentence) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"onnx": "a" * 64, "n": 3}, "onnx aaaaaaaaaaaa, n 3"),
        ([], "none"),
        (["a", "b"], "a, b"),
        (True, "yes"),
        (None, "none"),
        (0, "0"),
    ],
)
def test_told__values_of_detail__are_for_people(value: object, said: str) -> None:
    assert told(value) == said


def test_strip__devices_at_one_place__are_one_larger_dot() -> None:
    drawing = draw_strip([[0.9, 0.9, 0.9], [0.5]])
    assert drawing is not None
    assert [(dot.count, dot.radius > 4.5) for dot in drawing.arms[0]] == [(3, True)]
    assert draw_strip([[0.5, 0.5], [0.5]]) is None


def test_installs__of_a_phase__fill_the_line_from_left_to_right() -> None:
    drawing = draw_installs(planned=20, offered=10, committed=6, failed=1)
    assert drawing is not None
    assert [(part.name, part.count, part.x) for part in drawing.parts] == [
        ("committed", 6, 0.0),
        ("failed", 1, 30.0),
        ("pending", 3, 35.0),
        ("unoffered", 10, 50.0),
    ]
    assert draw_installs(planned=0, offered=0, committed=0, failed=0) is None


def test_silence__of_a_phase__sets_the_silent_apart() -> None:
    drawing = draw_silence(offered=10, silent=1)
    assert drawing is not None
    assert [(part.name, part.width) for part in drawing.parts] == [("heard", 90.0), ("silent", 10.0)]


def test_forest__several_intervals__share_one_axis_that_holds_zero_and_the_margin() -> None:
    drawing = draw_forest([Interval(0.05, 0.02, 0.08), Interval(0.01, -0.3, 0.32)], margin=-0.05)
    assert drawing.margin_x is not None
    assert 0 <= drawing.margin_x < drawing.zero_x < drawing.rows[0].low_x < drawing.rows[0].high_x <= 100
    assert drawing.rows[1].low_x < drawing.rows[1].estimate_x < drawing.rows[1].high_x


def test_forest__one_very_wide_interval__is_cut_so_that_the_others_can_be_read() -> None:
    drawing = draw_forest([Interval(0.001, -0.001, 0.003), Interval(0.0, -1.0, 1.0)], margin=None)
    assert drawing.rows[0].high_x - drawing.rows[0].low_x > 5
    assert 0 <= drawing.rows[1].low_x < drawing.rows[1].high_x <= 100


def test_course__narrowing_interval__stays_in_the_box_and_ends_at_the_right() -> None:
    drawing = draw_course([Point(0, 0.1, -0.9, 1.0), Point(10, 0.08, -0.1, 0.3), Point(20, 0.07, 0.02, 0.12)])
    assert drawing is not None
    places = [tuple(float(part) for part in point.split(",")) for point in drawing.band.split()]
    assert all(0 <= x <= 1000 and 0 <= y <= 100 for x, y in places)
    assert drawing.line.split()[-1].startswith("1000.0,")
    assert draw_course([Point(0, 0.1, 0.0, 0.2)]) is None
