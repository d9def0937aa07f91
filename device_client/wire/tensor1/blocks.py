"""One block: from old bytes and a payload to output. Shared by the decoder and by the encoder that proves what it made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from device_client.wire.tensor1 import residuals
from device_client.wire.tensor1.allocation import keep_freed_memory
from device_client.wire.tensor1.elements import Content, Element, Integers, ordered
from device_client.wire.tensor1.errors import PatchPayloadError
from device_client.wire.tensor1.format import Cursor, Kind, Predictor
from device_client.wire.tensor1.pieces import Block, Piece
from device_client.wire.tensor1.predictors import predict
from device_client.wire.tensor1.transposed import Read, read_by_columns

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


# Runs from this size on have statistics of their own; smaller ones share what it costs to write those.
LARGE_RUN_BYTES: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Run:
    """The numbers of one field of one piece, and what they are guessed to be (None: nothing is known)."""

    piece: Piece
    element: Element
    position: int
    length: int
    record_bytes: int
    count: int
    guess: Integers | None

    @property
    def key(self) -> tuple[int, bool, int]:
        """Runs of one key are coded together, in this order of keys: small ones of a kind; large ones are coded alone."""
        own = self.piece.number + 1 if self.count * self.element.width >= LARGE_RUN_BYTES else 0
        return (self.element, self.guess is not None, own)


def old_bytes(block: Block, read: Read) -> list[bytes]:
    """The old bytes that each piece needs, in the order of its numbers; none for what needs none. `read` takes offset and length."""
    found = []
    for piece in block.pieces:
        item = piece.item
        first, count = piece.start // item.record_bytes, piece.length // item.record_bytes
        if item.old_rows:
            found.append(read_by_columns(item, first, count, read))
        elif item.old_record_bytes:
            found.append(read(item.old_offset + first * item.old_record_bytes, count * item.old_record_bytes))
        else:
            found.append(b"")
    return found


def runs_of(
    block: Block, parameters: Content, olds: Sequence[bytes]
) -> dict[tuple[int, bool, int], list[tuple[int, Run]]]:
    """The DELTA pieces' numbers by key, each with its piece's offset in the block."""
    found: dict[tuple[int, bool, int], list[tuple[int, Run]]] = {}
    offset = 0
    for piece, old in zip(block.pieces, olds, strict=True):
        if piece.item.kind is Kind.DELTA:
            for run in _runs(piece, parameters, old):
                found.setdefault(run.key, []).append((offset, run))
        offset += piece.length
    return dict(sorted(found.items()))


def _runs(piece: Piece, parameters: Content, old: bytes) -> list[Run]:
    item = piece.item
    records = piece.length // item.record_bytes
    guesses: Sequence[Integers | None] = [None] * len(item.fields)
    if item.predictor is not Predictor.NOTHING:
        guesses = predict(item, parameters, old, piece.start // item.record_bytes, records)
    runs = []
    position = 0
    for field, guess in zip(item.fields, guesses, strict=True):
        count = records * field.count
        runs.append(Run(piece, field.element, position, field.length, item.record_bytes, count, guess))
        position += field.length
    return runs


def joined(runs: Sequence[tuple[int, Run]]) -> Integers | None:
    """The guesses of runs of one key, end to end."""
    import numpy as np

    guesses = [run.guess for _, run in runs if run.guess is not None]
    if len(guesses) == 1:
        return guesses[0]
    return np.concatenate(guesses) if guesses else None


def cells(content: Any, offset: int, run: Run) -> NDArray[np.uint8]:
    """The bytes of a run inside a block's bytes, as rows of one record each."""
    import numpy as np

    view = np.frombuffer(content, dtype=np.uint8, count=run.piece.length, offset=offset)
    return view.reshape(-1, run.record_bytes)[:, run.position : run.position + run.length]


def decode_block(
    block: Block,
    *,
    parameters: Content,
    literals: bytes | memoryview,
    olds: Sequence[bytes],
    payload: bytes,
) -> bytearray:
    """The output of a block without streams; raises `PatchPayloadError`. Nothing of it is trusted before its checksum is."""
    output = bytearray(block.length)
    offset = 0
    for piece, old in zip(block.pieces, olds, strict=True):
        kind = piece.item.kind
        if kind is Kind.COPY:
            output[offset : offset + piece.length] = old
        elif kind is Kind.LITERAL:
            start = piece.literal_offset + piece.start
            output[offset : offset + piece.length] = literals[start : start + piece.length]
        offset += piece.length
    cursor = Cursor(payload, PatchPayloadError)
    for runs in runs_of(block, parameters, olds).values():
        _decode_runs(cursor, runs, output)
    if cursor.left:
        raise PatchPayloadError(f"expected the end of block {block.index}, got {cursor.left} bytes more")
    return output


def _decode_runs(cursor: Cursor, runs: Sequence[tuple[int, Run]], output: bytearray) -> None:
    import numpy as np

    keep_freed_memory()
    element = runs[0][1].element
    count = sum(run.count for _, run in runs)
    guess = joined(runs)
    values = residuals.decode(cursor, count, element, guess)
    if values is None:
        values = np.zeros(count, dtype=f"<i{element.width}") if guess is None else guess
    elif guess is not None:
        # Differences wrap around, as they did when they were taken.
        values = values + guess
    raw = np.ascontiguousarray(ordered(values, element)).view(np.uint8)
    start = 0
    for offset, run in runs:
        size = run.count * element.width
        cells(output, offset, run)[:] = raw[start : start + size].reshape(-1, run.length)
        start += size
