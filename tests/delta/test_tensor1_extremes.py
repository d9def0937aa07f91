"""Patches that ask for as much as the format allows are applied in fixed memory."""

import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_client.wire.tensor1.blocks import decode_block, old_bytes, runs_of
from device_client.wire.tensor1.derivations import derive
from device_client.wire.tensor1.elements import Element
from device_client.wire.tensor1.format import (
    MAX_BLOCK_BYTES,
    MAX_BLOCK_RUNS,
    MAX_DERIVED_CHANNELS,
    MAX_PARAMETER_BYTES,
    MAX_PROLOGUE_BYTES,
    MAX_STREAM_BYTES,
    MIN_BLOCK_BYTES,
    Derivation,
    Field,
    Flag,
    Formula,
    Header,
    Instruction,
    Kind,
    Predictor,
    Prologue,
    pack_parameters,
    pack_varint,
)
from device_client.wire.tensor1.pieces import BlockRuns, blocks, runs_in
from device_client.wire.tensor1.prologue import compress_prologue, pack_prologue
from device_client.wire.tensor1.streams import lzma_method
from fleet.adapters.delta_tensor import Coding, residual_coding
from fleet.adapters.delta_tensor.streams import payloads
from tests.delta.patches import Held, forged

ROOT = Path(__file__).resolve().parents[2]
OLD = np.random.default_rng(1).standard_normal(1 << 20, dtype=np.float32).tobytes()
F32, F16, I8 = (Field(Element.F32, 1),), (Field(Element.F16, 1),), (Field(Element.I8, 1),)
BYTES = tuple(Field(Element.U8, 1) for _ in range(5))
DERIVATION = Derivation(Formula.ASYMMETRIC, 0, Element.F32, 1, 1, 0x42FE0000, 0x3F800000, 0)
NOISE = np.random.default_rng(2).bytes(MAX_PARAMETER_BYTES)
# What a device may take in all. What Python and its libraries take of it depends on whether their modules are compiled.
DEVICE_MIB = 48.0
APPLIES = """
import sys
from tests.bench.delta_process import File, status_mib
from pathlib import Path
import numpy, pcodec
from device_client.wire.tensor1 import errors
from device_client.wire.tensor1.decoder import apply
try:
    apply(File(Path(sys.argv[2])), File(Path(sys.argv[1])), lambda offset, content: None)
except errors.OutputMismatchError:
    print(status_mib("VmHWM"))
"""


def _record(payload: bytes, output: bytes | bytearray) -> bytes:
    return pack_varint(len(payload)) + zlib.crc32(output).to_bytes(4, "little") + payload


def _patch(items: Sequence[Instruction], parameters: bytes = b"", written: bytes = b"", literals: bytes = b"") -> bytes:
    """A patch of noise with all that decoding knows: classes, buckets and differences of every size."""
    dice = np.random.default_rng(3)
    records = b""
    for block in blocks(items, MAX_BLOCK_BYTES):
        if block.pieces[0].item.is_heavy and not block.pieces[0].start:
            records += pack_varint(len(written)) + written
        olds = old_bytes(block, Held(OLD).read_at)
        heavy = parameters if block.pieces[0].item.is_heavy else b""
        payload = b""
        for runs in runs_of(block, heavy, olds).values():
            count, element = sum(run.count for _, run in runs), runs[0][1].element
            sizes = np.exp2(dice.uniform(0, 8 * element.width - 2, -(-count // 256)))
            noise = (dice.standard_normal(count) * np.repeat(sizes, 256)[:count] / 4).astype(f"<i{element.width}")
            guesses = [run.guess for _, run in runs if run.guess is not None]
            guess = np.concatenate(guesses) if guesses else None
            payload += residual_coding.encode(noise, element, guess, Coding.PCODEC)
        output = decode_block(block, parameters=heavy, literals=literals, olds=olds, payload=payload)
        records += _record(payload, output)
    raw = pack_prologue(Prologue(tuple(items), literals))
    packed, flag = compress_prologue(raw)
    header = Header(flag, MAX_BLOCK_BYTES, len(OLD), bytes(32), sum(item.length for item in items), bytes(32), 0)
    return forged(header, items, records, literals=literals, packed=packed)


def _small(count: int, item: Instruction) -> list[Instruction]:
    return [replace(item, old_offset=8 * number) for number in range(count)]


def _tiny_records() -> bytes:
    return _patch(_small(MAX_BLOCK_RUNS // 5, Instruction(Kind.DELTA, 5, 0, Predictor.SAME, BYTES)))


def _tiny_tensors() -> bytes:
    return _patch(_small(MAX_BLOCK_RUNS, Instruction(Kind.DELTA, 4, 0, Predictor.PRUNE, F32, Element.F32, (1, 1))))


def _multiplied() -> bytes:
    item = Instruction(Kind.DELTA, 4, 0, Predictor.DECAY, F32, Element.F32, (1, 2048))
    return _patch(_small(MAX_BLOCK_RUNS // 17, item))


def _derived() -> bytes:
    count = MAX_DERIVED_CHANNELS
    item = Instruction(
        Kind.DELTA, count, 0, Predictor.QUANTISE, I8, Element.F32, (1, count), 8 * count, derivation=DERIVATION
    )
    words = np.frombuffer(derive(DERIVATION, count, 8 * count, Held(OLD).read_at), "<i4") + np.frombuffer(NOISE, "<i4")
    literals = NOISE[: MAX_PROLOGUE_BYTES - 1024]
    items = [Instruction(Kind.LITERAL, len(literals)), item]
    return _patch(items, words.tobytes(), pack_parameters(NOISE), literals)


def _scaled() -> bytes:
    count = MAX_PARAMETER_BYTES // 4
    item = Instruction(Kind.DELTA, 2 * count, 0, Predictor.ROW_SCALE, F16, Element.F32, (1, count), 4 * count)
    return _patch([item], NOISE, pack_parameters(NOISE))


def _whole_bytes() -> bytes:
    return _patch([Instruction(Kind.DELTA, MAX_BLOCK_BYTES, 0, Predictor.SAME, I8)])


def _stream() -> bytes:
    item = Instruction(Kind.STREAM, MAX_STREAM_BYTES, scalars=(lzma_method(3, 0, 0),))
    count = item.length // MAX_BLOCK_BYTES
    made = payloads(Held(bytes(item.length)), 0, iter([MAX_BLOCK_BYTES] * count), item.length, item.scalars[0])
    records = b"".join(_record(payload, bytes(MAX_BLOCK_BYTES)) for payload in made)
    return forged(Header(Flag(0), MAX_BLOCK_BYTES, len(OLD), bytes(32), item.length, bytes(32), 0), [item], records)


@pytest.mark.parametrize(
    "made",
    [_tiny_records, _tiny_tensors, _multiplied, _derived, _scaled, _whole_bytes, _stream],
    ids=lambda made: made.__name__.strip("_"),
)
def test_patch__at_the_limits__fits_a_device(made: Callable[[], bytes], tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(OLD)
    (tmp_path / "patch").write_bytes(made())
    ran = subprocess.run(
        [sys.executable, "-c", APPLIES, tmp_path / "old", tmp_path / "patch"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert float(ran.stdout) <= DEVICE_MIB


@given(
    items=st.lists(
        st.one_of(
            st.builds(lambda length: Instruction(Kind.COPY, length), st.integers(1, 20_000)),
            st.builds(
                lambda fields, count: Instruction(
                    Kind.DELTA, 3 * fields * count, fields=(Field(Element.U8, 3),) * fields
                ),
                st.integers(1, 8),
                st.integers(1, 700),
            ),
            st.builds(lambda length: Instruction(Kind.STREAM, length, scalars=(0,)), st.integers(1, 9_000)),
        ),
        max_size=12,
    ),
    repeated=st.integers(1, 40),
)
@settings(deadline=None, max_examples=60)
def test_block_runs__any_instructions__are_counted_as_blocks_are_cut(items: list[Instruction], repeated: int) -> None:
    found = [
        sum(runs_in(piece.item) for piece in block.pieces)
        for block in blocks(items * repeated, MIN_BLOCK_BYTES)
        if not block.pieces[0].item.is_heavy
    ]
    counted = BlockRuns(MIN_BLOCK_BYTES)
    most = 0
    for item in items * repeated:
        counted.add(item)
        most = max(most, counted.most)
    assert most == max(found, default=0)
