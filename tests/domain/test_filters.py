"""The language of filters: what it means, how it is written, and where it says no."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_client.wire.director import Decision
from device_client.wire.messages import Capabilities
from fleet.domain.assign import assign
from fleet.domain.errors import InvalidInputError
from fleet.domain.facts import DeviceFacts
from fleet.domain.filters import sql
from fleet.domain.filters.errors import FilterError
from fleet.domain.filters.filter import Filter
from fleet.domain.filters.parser import parse
from fleet.domain.filters.syntax import MAX_CHARS, MAX_DEPTH, MAX_NODES, Node, written
from fleet.domain.policy import RolloutPolicy
from tests.domain.releases import MODEL, NOW, device, rule
from tests.filter_trees import trees

EXAMPLE = 'hw == "jetson-orin" and attributes.site in ("a","b") and capabilities.ram_mb >= 2048 and not group("beta")'
ORIN = DeviceFacts(
    device_id="cam-01",
    hardware_class="jetson-orin",
    capabilities=Capabilities(ram_bytes=4 * 2**30, arch="aarch64", precisions=("int8",), runtimes={"onnx": "1.22"}),
    groups=frozenset({"alpha"}),
    attributes={"site": "a", "site floor": "3", "empty": ""},
)
COLUMNS = sql.Columns("id", "hw", "given", "said", "caps", "members", "members.d", "members.g")


def means(text: str, facts: DeviceFacts = ORIN) -> bool:
    found = Filter.parse(text)
    assert found is not None
    return found.matches(facts)


# ---------------------------------------------------------------- what filters mean


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (EXAMPLE, True),
        ("hw != 'jetson-orin'", False),
        ("id in ('cam-02', 'cam-01')", True),
        ("id not in ('cam-02', 'cam-01')", False),
        ('attributes.site == "A"', False),
        ('attributes["site floor"] == "3"', True),
        ('attributes.empty == ""', True),
        ('attributes.nowhere == ""', False),
        ('attributes.nowhere != "a"', True),
        ("known(attributes.nowhere)", False),
        ("known(attributes.empty)", True),
        ("capabilities.ram_mb == 4096", True),
        ("capabilities.ram_bytes > 4294967295", True),
        ("capabilities.ram_mb in (1024, 4096)", True),
        ("capabilities.disk_mb < 100", False),
        ("not capabilities.disk_mb >= 100", True),
        ("known(capabilities.disk_mb)", False),
        ("capabilities.max_opset == 0", False),
        ('capabilities.arch == "aarch64"', True),
        ('"int8" in capabilities.precisions', True),
        ('"INT8" in capabilities.precisions', False),
        ('"onnx" in capabilities.runtimes', True),
        ('not "tflite" in capabilities.runtimes', True),
        ('group("alpha") or group("beta") and hw == "x"', True),
        ('(group("alpha") or group("beta")) and hw == "x"', False),
        ('not group("alpha") or hw == "jetson-orin"', True),
        ('not (group("alpha") or hw == "jetson-orin")', False),
        ("not not group('alpha')", True),
    ],
)
def test_filter__written_like_this__means(text: str, *, expected: bool) -> None:
    assert means(text) is expected


def test_filter__empty__is_none() -> None:
    assert Filter.parse("") is Filter.parse(" \n ") is None


def test_filter__other_spelling__is_equal() -> None:
    one = Filter.parse("hw=='a'and(group( 'b' ))")
    assert one == Filter.parse('hw == "a" and group("b")')
    assert one is not None
    assert written(one.root) == 'hw == "a" and group("b")'


@given(trees)
def test_filter__any_tree__is_read_back_from_its_text(tree: Node) -> None:
    assert parse(written(tree)) == tree


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('attributes.site == "b"', 'attributes.site == "b" does not hold: the device\'s is "a"'),
        (
            f"known(attributes.site) and {EXAMPLE.replace('2048', '8192')}",
            "capabilities.ram_mb >= 8192 does not hold: the device's is 4096",
        ),
        ('attributes.x == "b"', 'attributes.x == "b" does not hold: the device has no attributes.x'),
        ('hw != "jetson-orin"', 'hw != "jetson-orin" does not hold: the device\'s is "jetson-orin"'),
        ('group("b") or group("c")', 'group("b") or group("c") does not hold'),
    ],
)
def test_objection__device_is_not_meant__names_the_part_and_what_was_found(text: str, sentence: str) -> None:
    found = Filter.parse(text)
    assert found is not None
    assert found.objection(ORIN) == sentence


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("text", "column", "expected", "got"),
    [
        ('hw = "a"', 4, "operator", "equality is =="),
        ("hw == jetson", 7, "text in quotes, because hw is text", "'jetson'"),
        ('hw == "jetson', 7, 'text that a second " ends', "none"),
        ('hw < "a"', 4, "because hw is text and has no order", "'<'"),
        ("hw == 3", 7, "text in quotes", "'3'"),
        ('capabilities.ram_mb >= "2"', 24, "a whole number", "the text '2'"),
        ("capabilities.ram_mb >= 2.5", 24, "a whole number", "'2.'..."),
        ("capabilities.ram_mb >= 2GB", 24, "a whole number", "'2G'..."),
        ("capabilities.ram_mb >= 99999999999999999999", 24, "up to 8589934591", "'99999999999999999999'"),
        ("capabilities.ram_gb >= 2", 14, "ram_mb", "'ram_gb'"),
        ("ram_mb >= 2", 1, "capabilities.<name>", "'ram_mb'"),
        ("attributes == 'x'", 12, ". or [", "'=='"),
        ("attributes[site] == 'x'", 12, "an attribute's name in quotes", "'site'"),
        ("attributes['a\"b'] == 'x'", 12, "without quotes and backslashes", "the text"),
        ("attributes['é'] == 'x'", 12, "ASCII", "the text"),
        ("hw == 'a' and", 14, "hw, id", "the end of the filter"),
        ("hw == 'a' hw == 'b'", 11, "and, or", "'hw'"),
        ("(hw == 'a'", 11, "and, or, or )", "the end of the filter"),
        ("hw in ('a' 'b')", 12, ", or )", "the text 'b'"),
        ("hw in ()", 8, "text in quotes", "')'"),
        ("hw not == 'a'", 8, "in", "'=='"),
        ("group(beta)", 7, "a group's name in quotes", "'beta'"),
        ("capabilities.precisions == 'int8'", 25, '"..." in capabilities.precisions', "'=='"),
        ("'int8' in hw", 11, "a set of names", "'hw'"),
        ("known(capabilities.codecs)", 7, "text or a number", "'capabilities'"),
        ("hw == 'a' && group('b')", 11, "operator", "write and"),
        ("hw == 'a\\n'", 9, "after a backslash", "'n'"),
        ("hw == 'a\x00'", 9, "without control characters", "'\\x00'"),
        ("hw == '\ud800'", 8, "without control characters", "'\\ud800'"),
        ("hw == 'a'; DROP TABLE", 10, "operator", "';'"),
        ("HW == 'a'", 1, "hw, id", "'HW'"),
        ("", 1, "hw, id", "the end of the filter"),
    ],
)
def test_parse__not_a_filter__points_at_the_column(text: str, column: int, expected: str, got: str) -> None:
    with pytest.raises(FilterError) as refused:
        parse(text)
    error = refused.value
    assert (error.column, error.code) == (column, "filter_invalid")
    assert expected in error.expected
    assert got in error.got
    error.message.encode()
    *_, caret = error.message.split("\n")
    assert caret == " " * (column - 1) + "^"


def test_parse__fault_far_into_a_long_filter__shows_the_part_around_it() -> None:
    text = " or ".join(["hw == 'a'"] * 40) + " ? " + "x" * 200
    with pytest.raises(FilterError) as refused:
        parse(text)
    _, shown, caret = refused.value.message.split("\n")
    assert len(shown) < 100
    assert shown[len(caret) - 1] == "?"


@pytest.mark.parametrize(
    "text",
    [
        "hw == 'a' or " * 200 + "hw == 'a'",
        "(" * (MAX_DEPTH + 1) + "hw == 'a'" + ")" * (MAX_DEPTH + 1),
        "not " * (MAX_DEPTH + 1) + "hw == 'a'",
        "id in (" + ",".join("'a'" for _ in range(MAX_NODES + 1)) + ")",
        " or ".join("id=='a'" for _ in range(170)) + " " * MAX_CHARS,
        "hw == '" + "a" * 600 + "'",
        "9" * MAX_CHARS,
    ],
)
def test_parse__too_long_too_deep_or_too_large__is_refused_at_once(text: str) -> None:
    began_s = time.process_time()
    with pytest.raises(FilterError):
        parse(text)
    assert time.process_time() - began_s < 1


def test_parse__at_the_limits__is_read() -> None:
    parse("(" * (MAX_DEPTH - 1) + "hw == 'a'" + ")" * (MAX_DEPTH - 1))
    parse("id in (" + ",".join("'a'" for _ in range(MAX_NODES)) + ")")


@given(st.text(max_size=80) | st.text(alphabet="hw=!<>()'\"andortig.,[]\\ 09_", max_size=80))
def test_parse__any_text__is_a_tree_or_a_filter_error(text: str) -> None:
    try:
        tree = parse(text)
    except FilterError as error:
        column = error.column
    else:
        assert parse(written(tree)) == tree
        column = 1
    assert 1 <= column <= len(text) + 1


# ---------------------------------------------------------------- SQL


@pytest.mark.parametrize("dialect", [sql.Sqlite(), sql.Postgresql()])
@given(tree=trees)
def test_condition__any_tree__holds_no_word_of_a_person(dialect: sql.Dialect, tree: Node) -> None:
    made = sql.condition(tree, COLUMNS, dialect)
    assert made.text.count("%s") == len(made.parameters) == made.text.count("%")
    quoted = set(re.findall(r"'([^']*)'", made.text))
    assert quoted <= {"", "text", "integer", "array", "object", "string", "number", "^[1-9][0-9]{0,15}$"}
    assert re.fullmatch(r"[A-Za-z0-9_ %s()=<>.,'~:>\-\^\[\]{}$]*", made.text)


def test_condition__largest_filter__stays_within_what_databases_take() -> None:
    text = " or ".join("attributes.a=='b'" for _ in range(95))
    made = sql.condition(parse(text), COLUMNS, sql.Sqlite())
    assert len(made.parameters) < 999
    assert len(made.text) < 50_000


# ---------------------------------------------------------------- where filters are used


def test_policy__filter__is_read_and_written_back() -> None:
    policy = RolloutPolicy.parse({"preset": "all-at-once", "population": {"filter": EXAMPLE}})
    assert policy.filter is not None
    assert policy.filter.text == EXAMPLE
    assert RolloutPolicy.parse(policy.encode()) == policy


def test_policy__filter_cannot_be_read__is_refused_with_the_column() -> None:
    with pytest.raises(InvalidInputError, match="filter: column 4: expected"):
        RolloutPolicy.parse({"preset": "all-at-once", "population": {"filter": "hw = 'a'"}})


def test_assign__filter_does_not_match__says_why_not_and_goes_on() -> None:
    meant = rule(2, "2", filter=Filter.parse('hw == "edge-big"'))
    answer = assign(device(), [meant, rule(1, "1")], model=MODEL, now=NOW)
    assert answer.version == "1"
    assert answer.trace[0].outcome == "refused"
    assert 'its filter does not match: hw == "edge-big" does not hold' in answer.trace[0].sentence
    alone = assign(device(), [meant], model=MODEL, now=NOW)
    assert alone.decision is Decision.NOTHING
    assert assign(device(hardware_class="edge-big"), [meant], model=MODEL, now=NOW).version == "2"
