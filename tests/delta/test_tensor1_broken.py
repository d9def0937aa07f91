"""Patches that must be refused: cut, flipped, forged. Each with the error that says so, and within fixed memory."""

import lzma
import resource
import struct
import tracemalloc
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pcodec import ChunkConfig, DeltaSpec, ModeSpec, standalone

from device_client.wire.errors import MalformedPatchError
from device_client.wire.tensor1 import decode, errors, pco, read_header
from device_client.wire.tensor1.classes import GRID
from device_client.wire.tensor1.decoder import read_prologue
from device_client.wire.tensor1.elements import Element
from device_client.wire.tensor1.format import (
    HEADER_BYTES,
    MAX_BLOCK_RUNS,
    MAX_DERIVED_CHANNELS,
    MAX_INSTRUCTIONS,
    MAX_MULTIPLIES,
    MAX_NUMBERS,
    MAX_PARAMETER_BYTES,
    MAX_PROLOGUE_BYTES,
    MAX_STREAM_BYTES,
    Derivation,
    Field,
    Flag,
    Formula,
    Header,
    Instruction,
    Kind,
    Predictor,
    Prologue,
    deflate,
    pack_header,
    pack_varint,
)
from device_client.wire.tensor1.prologue import pack_prologue
from device_client.wire.tensor1.residuals import Mode, Plane
from device_client.wire.tensor1.streams import lzma_method
from fleet.adapters.delta_tensor import Coding
from fleet.adapters.delta_tensor.streams import payloads
from tests.delta.pairs import files
from tests.delta.patches import Held, Written, applied, forged, make, parts, weights

OLD = bytes(range(256)) * 64
FLOATS = (Field(Element.F32, 1),)


def _header(new_bytes: int = 4096, **changes: Any) -> Header:
    return replace(Header(Flag(0), 4096, len(OLD), bytes(32), new_bytes, bytes(32), 0), **changes)


def _record(payload: bytes, output: bytes = b"") -> bytes:
    return pack_varint(len(payload)) + zlib.crc32(output).to_bytes(4, "little") + payload


def _sized(content: bytes) -> bytes:
    return pack_varint(len(content)) + content


def _delta(**changes: Any) -> Instruction:
    return replace(Instruction(Kind.DELTA, 4096, 0, Predictor.SAME, FLOATS), **changes)


def _refused(patch: bytes, old: bytes = OLD) -> type[MalformedPatchError]:
    """The error; nothing may have been written, and little memory used."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    written = Written()
    with pytest.raises(MalformedPatchError) as caught:
        for _ in decode(Held(patch), Held(old), written):
            pass
    assert len(written.content) % 4096 == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10
    return type(caught.value)


def _with_predictor(predictor: Predictor, scalars: tuple[int, ...], parameter_bytes: int = 0) -> bytes:
    item = _delta(predictor=predictor, old_element=Element.F32, scalars=scalars, parameter_bytes=parameter_bytes)
    return forged(_header(), [item])


def _fat_stream(length: int) -> bytes:
    """Records of an honest stream of zeros, each with a payload that has as much behind it as one may have."""
    content = next(payloads(Held(bytes(length)), 0, iter([length]), length, lzma_method(3, 0, 0)))
    padding = bytes(60 << 10)
    return _record(content + padding, bytes(4096)) + b"".join(
        _record(padding, bytes(4096)) for _ in range(length // 4096 - 1)
    )


def _with_rows(rows: int, **changes: Any) -> bytes:
    return forged(_header(), [_delta(predictor=Predictor.CAST, old_element=Element.F32, old_rows=rows, **changes)])


def _by_columns(flag: int) -> bytes:
    """Columns of a matrix without rows: a cast whose old element bears the flag, with a 0 behind its offset."""
    raw = bytearray(pack_prologue(Prologue((_delta(predictor=Predictor.CAST, old_element=Element.F32),), b"")))
    at = raw.index(bytes((Predictor.CAST, Element.F32))) + 1
    raw[at] |= flag
    packed = deflate(bytes(raw[:-1]) + bytes(2))
    return forged(_header(), [], packed=packed, prologue_raw_bytes=len(raw) + 1)


def _payload(body: bytes) -> bytes:
    return forged(_header(), [_delta()], _record(body))


_ZEROS = standalone.simple_compress(np.zeros(1 << 22, dtype=np.int32), ChunkConfig())
_WAVE = np.tile(np.arange(64, dtype=np.int32) * 1000, 16)


def _pcodec(delta: DeltaSpec, mode: ModeSpec | None = None) -> bytes:
    """1024 numbers as pcodec writes them with this way of taking differences."""
    config = ChunkConfig(delta_spec=delta, mode_spec=mode or ModeSpec.classic())
    return bytes(standalone.simple_compress(_WAVE, config))


def _after_the_count(content: bytes, byte: int) -> bytes:
    """The file with the byte behind its chunk's first one changed: of a look back, its reach."""
    at = content.index(b"\x04\x01\x03") + 7
    return content[:at] + bytes((byte,)) + content[at + 1 :]


_PLAIN = _pcodec(DeltaSpec.no_op())
_LOOKBACK = _pcodec(DeltaSpec.try_lookback())
# The first half plain, the second by looking back.
_HALVES = [
    bytes(standalone.simple_compress(half, ChunkConfig(delta_spec=delta, mode_spec=ModeSpec.classic())))
    for half, delta in ((_WAVE[:512], DeltaSpec.no_op()), (_WAVE[512:], DeltaSpec.try_lookback()))
]
_SPLICED = _HALVES[0][:-1] + _HALVES[1][_HALVES[1].index(b"\x04\x01\x03") + 2 :]
_FEW = bytes(
    standalone.simple_compress(_WAVE[:32], ChunkConfig(delta_spec=DeltaSpec.no_op(), mode_spec=ModeSpec.classic()))
)
_CHUNK_AT = _FEW.index(b"\x04\x01\x03") + 2
_BOMB = lzma.compress(
    bytes(1 << 26),
    lzma.FORMAT_RAW,
    filters=[{"id": lzma.FILTER_LZMA1, "dict_size": 1 << 20, "lc": 0, "lp": 0, "pb": 0}],
)
_COPY = Instruction(Kind.COPY, 4096, 0)

_BOMB_PROLOGUE = lzma.compress(
    bytes(1 << 26),
    lzma.FORMAT_RAW,
    filters=[{"id": lzma.FILTER_LZMA1, "dict_size": MAX_PROLOGUE_BYTES, "lc": 3, "lp": 0, "pb": 0}],
)
_DERIVATION = Derivation(Formula.SYMMETRIC, 0, Element.F32, 1, 1, 0x42FE0000, 0x3F800000, 0)


def _scales(length: int, **changes: Any) -> Instruction:
    count = length // 4
    return Instruction(
        Kind.DELTA,
        length,
        predictor=Predictor.SCALES,
        fields=FLOATS,
        scalars=(1, count),
        parameter_bytes=length,
        derivation=replace(_DERIVATION, **changes),
    )


def _with_scales(**changes: Any) -> bytes:
    return forged(_header(64), [_scales(64, **changes)])


def _pcodec_payload(content: bytes) -> bytes:
    return _payload(bytes((Mode.PCODEC, 0, 0)) + _sized(content))


BROKEN: dict[str, tuple[bytes, type[MalformedPatchError]]] = {
    "empty": (b"", errors.TruncatedPatchError),
    "header_cut": (pack_header(_header())[:50], errors.TruncatedPatchError),
    "magic": (b"BSDIFF40" + pack_header(_header())[8:], errors.PatchHeaderError),
    "unknown_flag": (pack_header(_header(flags=8)), errors.PatchHeaderError),
    "block_too_large": (pack_header(_header(block_bytes=1 << 30)), errors.PatchLimitError),
    "block_too_small": (pack_header(_header(block_bytes=1)), errors.PatchLimitError),
    "file_too_large": (pack_header(_header(new_bytes=1 << 50)), errors.PatchLimitError),
    "prologue_too_large": (pack_header(_header(prologue_raw_bytes=1 << 30)), errors.PatchLimitError),
    "prologue_cut": (forged(_header(), [_COPY])[:-1], errors.TruncatedPatchError),
    "prologue_flipped": (forged(_header(), [_COPY], prologue_crc=1), errors.PatchTableError),
    "prologue_bomb": (forged(_header(), [], literals=bytes(1 << 22), prologue_raw_bytes=8), errors.PatchTableError),
    "prologue_length_forged": (
        forged(_header(), [_COPY], prologue_raw_bytes=MAX_PROLOGUE_BYTES),
        errors.PatchTableError,
    ),
    "wrong_base_length": (forged(_header(old_bytes=7), [_COPY]), errors.WrongBaseError),
    "old_range_past_the_end": (forged(_header(), [replace(_COPY, old_offset=len(OLD) - 1)]), errors.PatchTableError),
    "old_range_before_the_start": (forged(_header(), [replace(_COPY, old_offset=-1)]), errors.PatchTableError),
    "output_too_short": (forged(_header(5000), [_COPY]), errors.PatchTableError),
    "output_too_long": (forged(_header(4000), [_COPY, _COPY]), errors.PatchTableError),
    "output_overflows": (forged(_header(), [replace(_COPY, length=1 << 45)]), errors.PatchTableError),
    "too_many_instructions": (
        forged(_header(MAX_INSTRUCTIONS + 1), [replace(_COPY, length=1)] * (MAX_INSTRUCTIONS + 1)),
        errors.PatchLimitError,
    ),
    "too_many_runs_in_a_block": (
        forged(
            _header(8 * (MAX_BLOCK_RUNS // 8 + 1), block_bytes=512 << 10),
            [_delta(length=8, fields=(Field(Element.U8, 1),) * 8)] * (MAX_BLOCK_RUNS // 8 + 1),
        ),
        errors.PatchLimitError,
    ),
    "too_many_multiplied_numbers_in_a_block": (
        forged(
            _header(4096, block_bytes=512 << 10),
            [_delta(length=4, predictor=Predictor.DECAY, old_element=Element.F32, scalars=(1, MAX_MULTIPLIES))] * 250,
        ),
        errors.PatchLimitError,
    ),
    "literals_missing": (forged(_header(), [Instruction(Kind.LITERAL, 4096)], literals=b"few"), errors.PatchTableError),
    "literals_left": (forged(_header(), [_COPY], literals=b"more"), errors.PatchTableError),
    "partial_record": (forged(_header(4095), [_delta(length=4095)]), errors.PatchTableError),
    "columns_of_nothing": (_by_columns(0x80), errors.PatchTableError),
    "columns_of_too_many_rows": (_with_rows(512), errors.PatchLimitError),
    "columns_that_are_not_whole": (_with_rows(3), errors.PatchTableError),
    "columns_of_a_predictor_without_order": (
        forged(_header(), [_delta(predictor=Predictor.SAME, old_rows=32)]),
        errors.PatchTableError,
    ),
    "columns_behind_the_end": (_with_rows(32, old_offset=len(OLD) - 60), errors.PatchTableError),
    "record_too_large": (forged(_header(), [_delta(fields=(Field(Element.F64, 4096),))]), errors.PatchLimitError),
    "too_many_multiplies": (_with_predictor(Predictor.DECAY, (1, 1 << 40)), errors.PatchLimitError),
    "too_many_multiplies_in_pairs": (
        _with_predictor(Predictor.DECAY, (1, MAX_MULTIPLIES, 2, 1)),
        errors.PatchLimitError,
    ),
    "multiplies_that_never_happen": (_with_predictor(Predictor.DECAY, (1, 0) * 32), errors.PatchTableError),
    "too_many_scalars_in_all": (
        forged(
            _header(4 * (MAX_NUMBERS // 65 + 1)),
            [_delta(length=4, predictor=Predictor.DECAY, old_element=Element.F32, scalars=(1, 1) * 32)]
            * (MAX_NUMBERS // 65 + 1),
        ),
        errors.PatchLimitError,
    ),
    "more_parameters_than_numbers": (
        _with_predictor(Predictor.ROW_SCALE, (1, 1025), 4 * 1025),
        errors.PatchLimitError,
    ),
    "factors_larger_than_their_product": (
        _with_predictor(Predictor.LOW_RANK, (32, 32), 4 * 32 * (32 + 32)),
        errors.PatchLimitError,
    ),
    "more_parameters_than_output_in_all": (
        forged(
            _header(),
            [
                _delta(
                    length=1024,
                    predictor=Predictor.QUANTISE,
                    fields=(Field(Element.I8, 1),),
                    old_element=Element.F32,
                    scalars=(1, 1024),
                    parameter_bytes=8 * 1024,
                )
            ]
            * 4,
        ),
        errors.PatchLimitError,
    ),
    "rank_too_high": (_with_predictor(Predictor.LOW_RANK, (1 << 20, 32), 4), errors.PatchLimitError),
    "rank_without_rows": (_with_predictor(Predictor.LOW_RANK, (2, 0), 4), errors.PatchTableError),
    "parameters_too_large": (
        _with_predictor(Predictor.LOW_RANK, (8, 32), MAX_PARAMETER_BYTES + 4),
        errors.PatchLimitError,
    ),
    "parameters_do_not_fit": (_with_predictor(Predictor.ROW_SCALE, (32, 32), 4), errors.PatchTableError),
    "scalars_missing": (_with_predictor(Predictor.PRUNE, (1,)), errors.PatchTableError),
    "predictor_of_other_numbers": (
        forged(
            _header(),
            [_delta(predictor=Predictor.QUANTISE, old_element=Element.F32, scalars=(1, 1), parameter_bytes=8)],
        ),
        errors.PatchTableError,
    ),
    "parameter_bomb": (
        forged(
            _header(),
            [_delta(predictor=Predictor.ROW_SCALE, old_element=Element.F32, scalars=(32, 32), parameter_bytes=128)],
            _sized(deflate(bytes(1 << 24))),
        ),
        errors.PatchPayloadError,
    ),
    "prologue_not_lzma": (
        forged(_header(flags=Flag.LZMA_PROLOGUE), [_COPY], prologue_raw_bytes=20),
        errors.PatchTableError,
    ),
    "prologue_lzma_bomb": (
        forged(_header(flags=Flag.LZMA_PROLOGUE), [_COPY], packed=_BOMB_PROLOGUE, prologue_raw_bytes=20),
        errors.PatchTableError,
    ),
    "derived_for_too_many_channels": (
        forged(_header(4 * MAX_DERIVED_CHANNELS + 4), [_scales(4 * MAX_DERIVED_CHANNELS + 4)]),
        errors.PatchLimitError,
    ),
    "derived_from_behind_the_end": (_with_scales(old_offset=len(OLD) - 60), errors.PatchTableError),
    "derived_from_before_the_start": (_with_scales(old_offset=-1), errors.PatchTableError),
    "derived_from_too_much": (
        forged(_header(), [_scales(4096, outer=4)] * 8 + [_scales(4096)], literals=b"", new_bytes=9 * 4096),
        errors.PatchLimitError,
    ),
    "derived_from_nothing": (_with_scales(outer=0), errors.PatchTableError),
    "derived_from_whole_numbers": (_with_scales(old_element=Element.I8), errors.PatchTableError),
    "derived_base_too_large": (_with_scales(base=1 << 20), errors.PatchLimitError),
    "derived_parameters_of_another_predictor": (
        forged(
            _header(),
            [
                _delta(
                    predictor=Predictor.ROW_SCALE,
                    old_element=Element.F32,
                    scalars=(1024, 1),
                    parameter_bytes=4,
                    derivation=_DERIVATION,
                )
            ],
        ),
        errors.PatchTableError,
    ),
    "scales_of_another_count": (forged(_header(), [replace(_scales(4096), scalars=(1, 7))]), errors.PatchTableError),
    "stream_properties": (forged(_header(), [Instruction(Kind.STREAM, 4096, scalars=(255,))]), errors.PatchTableError),
    "stream_too_long": (
        forged(
            _header(MAX_STREAM_BYTES + 4096),
            [Instruction(Kind.STREAM, MAX_STREAM_BYTES + 4096, scalars=(lzma_method(3, 0, 0),))],
        ),
        errors.PatchLimitError,
    ),
    "stream_with_more_payload_than_output": (
        forged(
            _header(1 << 20),
            [Instruction(Kind.STREAM, 1 << 20, scalars=(lzma_method(3, 0, 0),))],
            _fat_stream(1 << 20),
        ),
        errors.PatchLimitError,
    ),
    "stream_garbage": (
        forged(_header(), [Instruction(Kind.STREAM, 4096, scalars=(lzma_method(3, 0, 0),))], _record(b"\xff" * 40)),
        errors.PatchPayloadError,
    ),
    "stored_stream_short": (
        forged(_header(), [Instruction(Kind.STREAM, 4096, scalars=(0,))], _record(b"short")),
        errors.PatchPayloadError,
    ),
    "record_missing": (forged(_header(), [_COPY]), errors.TruncatedPatchError),
    "record_cut": (forged(_header(), [_COPY], b"\x00\x01"), errors.TruncatedPatchError),
    "record_length_never_ends": (forged(_header(), [_COPY], b"\xff" * 20), errors.TruncatedPatchError),
    "payload_too_large": (forged(_header(), [_COPY], pack_varint(1 << 40) + bytes(8)), errors.PatchLimitError),
    "payload_larger_than_its_block": (
        forged(_header(), [_COPY], pack_varint(1 << 20) + bytes(1 << 21)),
        errors.PatchLimitError,
    ),
    "payload_left": (forged(_header(), [_COPY], _record(b"left", OLD[:4096])), errors.PatchPayloadError),
    "payload_missing": (_payload(b""), errors.PatchPayloadError),
    "unknown_mode": (_payload(b"\x09"), errors.PatchPayloadError),
    "raw_short": (_payload(bytes((Mode.RAW,)) + b"few"), errors.PatchPayloadError),
    "too_many_cuts": (_payload(bytes((Mode.PLANES, 0, 200))), errors.PatchPayloadError),
    "cuts_that_fall": (_payload(bytes((Mode.PLANES, 0, 2)) + struct.pack("<2h", 9, 8)), errors.PatchPayloadError),
    "group_size": (_payload(bytes((Mode.PLANES, 30, 0))), errors.PatchPayloadError),
    "class_bomb": (
        _payload(bytes((Mode.PLANES, 4)) + _sized(deflate(bytes(1 << 24)))),
        errors.PatchPayloadError,
    ),
    "grid_without_columns": (_payload(bytes((Mode.PLANES, GRID, 0, 0))), errors.PatchPayloadError),
    "grid_wider_than_its_run": (
        _payload(bytes((Mode.PLANES, GRID)) + pack_varint(1 << 40) + bytes(1)),
        errors.PatchPayloadError,
    ),
    "grid_phase_behind_its_columns": (_payload(bytes((Mode.PLANES, GRID, 16, 16))), errors.PatchPayloadError),
    "grid_class_bomb": (
        _payload(bytes((Mode.PLANES, GRID, 16, 0)) + _sized(deflate(bytes(1 << 24)))),
        errors.PatchPayloadError,
    ),
    "grid_class_of_a_column_too_large": (
        _payload(bytes((Mode.PLANES, GRID, 16, 0)) + _sized(deflate(bytes(64) + bytes((100,)) * 16))),
        errors.PatchPayloadError,
    ),
    "pcodec_bomb": (
        _payload(bytes((Mode.PCODEC, 0, 0)) + pack_varint(len(_ZEROS)) + _ZEROS),
        errors.PatchPayloadError,
    ),
    "pcodec_garbage": (
        _payload(bytes((Mode.PCODEC, 0, 0)) + pack_varint(40) + b"pco!" + b"\xa5" * 36),
        errors.PatchPayloadError,
    ),
    "pcodec_lookback": (_pcodec_payload(_LOOKBACK), errors.PatchPayloadError),
    "pcodec_lookback_over_four_billion_numbers": (
        _pcodec_payload(_after_the_count(_LOOKBACK, 0xFF)),
        errors.PatchPayloadError,
    ),
    "pcodec_lookback_in_a_second_chunk": (_pcodec_payload(_SPLICED), errors.PatchPayloadError),
    "pcodec_consecutive_differences": (
        _pcodec_payload(_pcodec(DeltaSpec.try_consecutive(2))),
        errors.PatchPayloadError,
    ),
    "pcodec_convolution": (_pcodec_payload(_pcodec(DeltaSpec.try_conv1(2))), errors.PatchPayloadError),
    "pcodec_multiples": (
        _pcodec_payload(_pcodec(DeltaSpec.no_op(), ModeSpec.try_int_mult(1000))),
        errors.PatchPayloadError,
    ),
    "pcodec_of_too_many_chunks": (
        _pcodec_payload(_FEW[:_CHUNK_AT] + _FEW[_CHUNK_AT:-1] * 32 + b"\0"),
        errors.PatchPayloadError,
    ),
    "pcodec_bytes_behind_the_end": (_pcodec_payload(_PLAIN + b"x"), errors.PatchPayloadError),
    "pcodec_without_an_end": (_pcodec_payload(_PLAIN[:-1]), errors.PatchPayloadError),
    "pcodec_without_chunks": (
        _pcodec_payload(_PLAIN[: _PLAIN.index(b"\x04\x01\x03") + 2] + bytes(1)),
        errors.PatchPayloadError,
    ),
    "plane_bomb": (
        _payload(bytes((Mode.PLANES, 0, 0, Plane.LZMA)) + pack_varint(len(_BOMB)) + _BOMB),
        errors.PatchPayloadError,
    ),
    "plane_method": (_payload(bytes((Mode.PLANES, 0, 0, 7)) + pack_varint(1) + b"x"), errors.PatchPayloadError),
    "checksum": (forged(_header(), [_COPY], _record(b"", b"other")), errors.BlockMismatchError),
    "bytes_behind_the_end": (forged(_header(), [_COPY], _record(b"", OLD[:4096]) + b"x"), errors.PatchHeaderError),
    "verbatim_cut": (pack_header(_header(flags=Flag.VERBATIM)) + bytes(4095), errors.TruncatedPatchError),
    "verbatim_left": (pack_header(_header(flags=Flag.VERBATIM)) + bytes(4097), errors.PatchHeaderError),
}


@pytest.mark.parametrize("name", BROKEN)
def test_patch__broken__is_refused_with_its_error_in_little_memory(name: str) -> None:
    patch, error = BROKEN[name]
    assert _refused(patch) is error


@pytest.mark.parametrize("scalars", [(), (1, 1), (1, 1) * 32], ids=["plain", "a pair", "many pairs"])
def test_table__as_large_as_the_limits_let_it_be__fits_the_memory_of_a_device(scalars: tuple[int, ...]) -> None:
    part = 64
    count = min(MAX_INSTRUCTIONS, MAX_NUMBERS // (1 + len(scalars))) // part
    predictor = Predictor.DECAY if scalars else Predictor.NOTHING
    old = Element.F32 if scalars else None
    item = _delta(length=4, predictor=predictor, old_element=old, scalars=scalars)
    patch = forged(_header(4 * count, old_bytes=4 * count), [replace(item, old_offset=4 * n) for n in range(count)])
    tracemalloc.start()
    header = read_header(Held(patch))
    assert len(read_prologue(Held(patch), header).instructions) == count
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes * part < 36 << 20


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_pcodec__any_byte_changed_or_cut__reads_or_is_refused_in_little_memory(width: int) -> None:
    numbers = (weights(5, 700) * 50).astype(f"<i{width}")
    config = ChunkConfig(delta_spec=DeltaSpec.no_op(), mode_spec=ModeSpec.classic(), enable_8_bit=width == 1)
    content = bytes(standalone.simple_compress(numbers, config))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    target = np.zeros(len(numbers), dtype=f"<i{width}")
    pco.read(content, target)
    assert np.array_equal(target, numbers)
    broken = [content[:length] for length in range(len(content))]
    for position in range(len(content)):
        others = (0, 0xFF, content[position] ^ 1, content[position] ^ 0x20, content[position] ^ 0x80)
        broken += [content[:position] + bytes((byte,)) + content[position + 1 :] for byte in others]
    refused = 0
    for changed in broken:
        try:
            pco.read(changed, target)
        except errors.PatchPayloadError:
            refused += 1
    assert refused > len(content), "whatever was cut, at least"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10


def test_patch__flipped_bit_anywhere__never_gives_a_wrong_file() -> None:
    before = {"a": weights(1, 64, 64), "b": weights(2, 64, 64)}
    after = {"a": before["a"] * np.float32(1.001), "b": before["b"] + weights(3, 64, 64) * np.float32(1e-4)}
    old, new = files.safetensors(before), files.safetensors(after) + b"and some more text " * 200
    for coding in Coding:
        patch, _ = make(old, new, coding=coding, block_bytes=4096)
        for position in [*range(HEADER_BYTES + 60), *range(HEADER_BYTES + 60, len(patch), 61)]:
            broken = bytearray(patch)
            broken[position] ^= 1 << position % 8
            try:
                assert applied(old, bytes(broken)) == new
            except MalformedPatchError:
                continue


def test_patch__cut_anywhere__is_refused() -> None:
    old, new = files.safetensors({"a": weights(1, 64, 64)}), files.safetensors({"a": weights(2, 64, 64)})
    patch, _ = make(old, new, block_bytes=4096)
    for length in range(0, len(patch), 37):
        with pytest.raises(MalformedPatchError):
            applied(old, patch[:length])


def test_patch__wrong_base_of_the_same_length__writes_nothing() -> None:
    old, new = files.safetensors({"a": weights(1, 64, 64)}), files.safetensors({"a": weights(1, 64, 64) * 1.001})
    patch, _ = make(old, new, block_bytes=4096)
    written = Written()
    with pytest.raises(errors.BlockMismatchError):
        list(decode(Held(patch), Held(bytes(len(old))), written))
    assert not written.content
    assert read_header(Held(patch)).old_bytes == len(old)
    assert parts(patch)[0] == patch[:HEADER_BYTES]
    assert struct.unpack_from("<8s", patch)[0] == b"tensor1\n"


def test_pcodec__few_chunks__are_read() -> None:
    target = np.zeros(32 * pco.MAX_CHUNKS, dtype=np.int32)
    pco.read(_FEW[:_CHUNK_AT] + _FEW[_CHUNK_AT:-1] * pco.MAX_CHUNKS + b"\0", target)
    assert target.tolist() == _WAVE[:32].tolist() * pco.MAX_CHUNKS
