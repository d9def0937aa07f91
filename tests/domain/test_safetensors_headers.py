"""Headers of safetensors that are built to cost memory, or to be read in two ways."""

import json
import struct
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.domain.inspection import inspect_weights
from fleet.domain.inspection.files import MalformedFileError
from fleet.domain.inspection.json_stream import MAX_TEXT_CHARS, MAX_VALUE_CHARS, JsonStream
from fleet.domain.inspection.safetensors import MAX_DIMENSIONS_IN_ALL, MAX_HEADER_BYTES, read
from tests.domain.model_files import source

SIZE = 1 << 19
EMPTY = b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
WIDE = b'"%%d":{"dtype":"F32","shape":[%s0],"data_offsets":[0,0]}' % (b"300," * 31)


def file_of(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header


HOSTILE = {
    "lists in a tensor": b'{"a":[' + b"[]," * (SIZE // 3 - 10) + b"[]]}",
    "lists in lists": b'{"a":' + b"[" * (SIZE - 100) + b"}",
    "objects in the metadata": b'{"__metadata__":{'
    + b",".join(b'"%d":{}' % number for number in range(SIZE // 13))
    + b"}}",
    "an object as metadata of metadata": b'{"__metadata__":{"a":{'
    + b",".join(b'"%d":{}' % number for number in range(SIZE // 13))
    + b"}}}",
    "a name that goes on": b'{"' + b"a" * (SIZE - 100) + b'":{}}',
    "dimensions": b"{" + b",".join(WIDE % number for number in range(SIZE // 190)) + b"}",
    "tensors": b"{" + b",".join(EMPTY % number for number in range(SIZE // 60)) + b"}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_header__built_to_cost_memory__takes_ten_times_its_size_at_most(name: str) -> None:
    content = file_of(HOSTILE[name])
    tracemalloc.start()
    try:
        with suppress(MalformedFileError):
            read(source(content))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * SIZE


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"{" + EMPTY % 1 + b"," + EMPTY % 1 + b"}", "a name of"),
        (
            b"{" + b",".join(WIDE % number for number in range(MAX_DIMENSIONS_IN_ALL // 32 + 1)) + b"}",
            "dimensions in all",
        ),
        (b"{" + EMPTY % 1 + b"} x", "the end of a JSON header"),
        (b"{" + EMPTY % 1, "one of"),
        (b"{" + EMPTY % 1 + b"]", "one of"),
        (b'{"\xff":1}', "UTF-8"),
        (b"{1:2}", "a name"),
    ],
    ids=["same name twice", "dimensions", "more behind it", "cut", "wrong bracket", "no text", "no name"],
)
def test_header__that_is_none__is_refused_and_says_why(header: bytes, said: str) -> None:
    with pytest.raises(MalformedFileError, match=said):
        read(source(file_of(header)))


def test_header__larger_than_is_read__is_said_to_be() -> None:
    content = struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{" + b" " * MAX_HEADER_BYTES
    with pytest.raises(MalformedFileError, match=f"at most {MAX_HEADER_BYTES} bytes, got {MAX_HEADER_BYTES + 1}"):
        inspect_weights(source(content), "model.safetensors")


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(
    document=st.dictionaries(st.text(max_size=6), _VALUES, max_size=6),
    step=st.integers(1, 40),
    as_written=st.booleans(),
    indent=st.sampled_from([None, 2]),
)
def test_stream__any_object_in_any_chunks__as_json_has_it(
    document: dict[str, Any], step: int, *, as_written: bool, indent: int | None
) -> None:
    text = json.dumps(document, ensure_ascii=not as_written, indent=indent).encode("utf-8", "surrogatepass")
    stream = JsonStream(text[at : at + step] for at in range(0, len(text), step))
    try:
        text.decode()
    except UnicodeDecodeError:
        with pytest.raises(MalformedFileError):
            list(stream.members())
        return
    assert {name: stream.value() for name in stream.members()} == json.loads(text)
    assert stream.peek() == ""


def test_stream__values_at_their_limits__texts_may_be_longer() -> None:
    def chunked(content: bytes) -> JsonStream:
        return JsonStream(content[at : at + 65_536] for at in range(0, len(content), 65_536))

    stream = chunked(b'{"a":"' + b"x" * (MAX_TEXT_CHARS - 1000) + b'"}')
    assert [len(str(stream.value())) for _ in stream.members()] == [MAX_TEXT_CHARS - 1000]
    for content in (
        b'{"a":"' + b"x" * (MAX_TEXT_CHARS + 65_536) + b'"}',
        b'{"a":[' + b"1," * (2 * MAX_VALUE_CHARS) + b"1]}",
    ):
        stream = chunked(content)
        with pytest.raises(MalformedFileError, match="values of at most"):
            [stream.value() for _ in stream.members()]
