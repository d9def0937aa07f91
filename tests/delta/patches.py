"""Files in memory, and patches between them: what every test of `tensor1` starts from."""

import io
import struct
import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from device_client.wire.tensor1 import apply
from device_client.wire.tensor1.format import (
    HEADER_BYTES,
    Header,
    Instruction,
    Prologue,
    deflate,
    pack_header,
)
from device_client.wire.tensor1.prologue import pack_prologue
from fleet.adapters.delta_tensor import Coding, EncodeStats, encode
from fleet.domain.layouts import Layout, describe


class Held:
    """Bytes by offset, which counts what was asked of it."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.size = len(content)
        self.reads: list[tuple[int, int]] = []

    def read_at(self, offset: int, length: int) -> bytes:
        self.reads.append((offset, length))
        return self.content[offset : offset + length]


class Written:
    """A new file that accepts blocks in order only."""

    def __init__(self, content: bytes = b"") -> None:
        self.content = bytearray(content)

    def __call__(self, offset: int, content: bytes | bytearray) -> None:
        assert offset == len(self.content)
        self.content += content


def make(
    old: bytes,
    new: bytes,
    *,
    coding: Coding = Coding.PCODEC,
    layouts: tuple[Layout, Layout] | None = None,
    block_bytes: int = 512 << 10,
) -> tuple[bytes, EncodeStats]:
    """A patch and what its encoder says of it."""
    before, after = layouts or (describe(Held(old)), describe(Held(new)))
    out = io.BytesIO()
    stats = encode(Held(old), Held(new), before, after, out, coding=coding, block_bytes=block_bytes)
    return out.getvalue(), stats


def applied(old: bytes, patch: bytes) -> bytes:
    """What the decoder makes of a patch."""
    written = Written()
    apply(Held(patch), Held(old), written)
    return bytes(written.content)


def forged(
    header: Header,
    instructions: Sequence[Instruction],
    records: bytes = b"",
    *,
    literals: bytes = b"",
    packed: bytes | None = None,
    **changes: Any,
) -> bytes:
    """A patch of these parts, whose checksums fit whatever it says."""

    raw = pack_prologue(Prologue(tuple(instructions), literals))
    packed = deflate(raw) if packed is None else packed
    fields: dict[str, Any] = {
        "prologue_bytes": len(packed),
        "prologue_raw_bytes": len(raw),
        "prologue_crc": zlib.crc32(packed),
        **changes,
    }
    return pack_header(replace(header, **fields)) + packed + records


def parts(patch: bytes) -> tuple[bytes, bytes, bytes]:
    """Header, prologue and records."""
    (prologue,) = struct.unpack_from("<I", patch, 100)
    return patch[:HEADER_BYTES], patch[HEADER_BYTES : HEADER_BYTES + prologue], patch[HEADER_BYTES + prologue :]


def weights(seed: int, *shape: int) -> np.ndarray:
    """Normally distributed float32."""
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
