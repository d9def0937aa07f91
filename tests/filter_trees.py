"""Filters and devices for property tests: every kind of part, values that nearly match, types that differ."""

from typing import Any

from hypothesis import strategies as st

from fleet.domain.filters.fields import CAPABILITIES, HARDWARE_CLASS, ID, attribute
from fleet.domain.filters.syntax import (
    And,
    Compare,
    Contains,
    Field,
    InGroup,
    Kind,
    Known,
    Node,
    Not,
    OneOf,
    Or,
    Order,
)

# Case, accents composed and not, quotes and backslashes, patterns of LIKE, placeholders, JSON, digits, beyond the BMP.
TEXTS = [
    "a",
    "A",
    "",
    "é",
    "e\u0301",
    "É",
    'q"u',
    "q'u",
    "b\\s",
    "%",
    "%s",
    "_",
    "null",
    "1",
    "{}",
    "🦊",
    "a ",
    "'; --",
]
KEYS = ["site", "Site", "site.floor", "a b", "$", "[0]", "#-1", "1", "a'b", "*", "$.site"]
NAMES = ["int8", "INT8", "é", "onnx", 'q"u', "1", ""]
NUMBERS = [0, 1, 17, 2_048, 2**31, 2_048 * 2**20, 2**53 - 1]
IDS = ["cam-01", "cam-02", "cam-03", "cam-04"]
CLASSES = ["edge-std", "Edge-std", "edge"]
GROUPS = ["beta", "BETA", "gamma"]

texts = st.sampled_from(TEXTS)
json_values: st.SearchStrategy[Any] = st.one_of(
    texts,
    st.sampled_from(NUMBERS),
    st.sampled_from([None, True, False, 1.0, 2048.0, 0.5, -1, 2**70, 1e300]),
    st.lists(st.one_of(texts, st.sampled_from(NAMES), st.integers(0, 3)), max_size=3),
    st.dictionaries(st.sampled_from(NAMES), texts, max_size=2),
)
_TEXT_FIELDS: list[Field] = [
    *(attribute(key) for key in KEYS),
    *(field for field in CAPABILITIES.values() if field.kind is Kind.TEXT),
]
_NUMBER_FIELDS = [field for field in CAPABILITIES.values() if field.kind is Kind.NUMBER]
_NAME_FIELDS = [field for field in CAPABILITIES.values() if field.kind is Kind.NAMES]


def _numbers(field: Field) -> st.SearchStrategy[int]:
    return st.sampled_from([number for number in NUMBERS if number * field.scale < 2**53])


def _about_text(field: Field, values: st.SearchStrategy[str]) -> st.SearchStrategy[Node]:
    return st.one_of(
        st.builds(Compare, st.just(field), st.just(Order.EQUAL), values),
        st.builds(OneOf, st.just(field), st.lists(values, min_size=1, max_size=3).map(tuple)),
        st.just(Known(field)),
    )


def _about_number(field: Field) -> st.SearchStrategy[Node]:
    return st.one_of(
        st.builds(Compare, st.just(field), st.sampled_from(Order), _numbers(field)),
        st.builds(OneOf, st.just(field), st.lists(_numbers(field), min_size=1, max_size=3).map(tuple)),
        st.just(Known(field)),
    )


def _flat(kind: type[And] | type[Or], parts: list[Node]) -> Node:
    return kind(tuple(leaf for part in parts for leaf in (part.parts if isinstance(part, kind) else (part,))))


_leaves: st.SearchStrategy[Node] = st.one_of(
    st.sampled_from(_TEXT_FIELDS).flatmap(lambda field: _about_text(field, texts)),
    st.sampled_from(_NUMBER_FIELDS).flatmap(_about_number),
    st.builds(Contains, st.sampled_from(_NAME_FIELDS), st.sampled_from(NAMES)),
    _about_text(ID, st.sampled_from(IDS)),
    _about_text(HARDWARE_CLASS, st.sampled_from(CLASSES)),
    st.builds(InGroup, st.sampled_from(GROUPS)),
)
trees: st.SearchStrategy[Node] = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(_flat, st.sampled_from([And, Or]), st.lists(inner, min_size=2, max_size=4)),
    ),
    max_leaves=8,
)
