"""How instructions are cut into blocks, and what one block may consist of.

Encoder and decoder both follow `blocks` and nothing else. `BlockRuns` counts, without making any piece, what
`format.MAX_BLOCK_RUNS` bounds: a block of ever so many tiny pieces would take memory and time by the piece.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from device_client.wire.tensor1.format import MULTIPLIES_PER_RUN, Instruction, Kind, Predictor


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an instruction's output: `length` bytes from `start` (relative to the instruction)."""

    item: Instruction
    # Which of the instructions it is.
    number: int
    start: int
    length: int
    # Where the instruction's literals stand in the prologue's pool.
    literal_offset: int = 0


@dataclass(frozen=True, slots=True)
class Block:
    """One record's output: whole pieces, in order."""

    index: int
    offset: int
    length: int
    pieces: tuple[Piece, ...]


def blocks(instructions: Iterable[Instruction], block_bytes: int) -> Iterator[Block]:
    """The blocks that these instructions make, in order; holds the instructions of one block at a time."""
    index = offset = literal_offset = filled = 0
    pieces: list[Piece] = []

    def finished() -> Block:
        nonlocal index, offset, filled, pieces
        block = Block(index, offset, filled, tuple(pieces))
        index, offset, filled, pieces = index + 1, offset + filled, 0, []
        return block

    for number, item in enumerate(instructions):
        unit, is_heavy = item.record_bytes, item.is_heavy
        if is_heavy and pieces:
            yield finished()
        start = 0
        while start < item.length:
            room = (block_bytes - filled) // unit * unit
            length = min(room, item.length - start)
            if not length:
                yield finished()
                continue
            pieces.append(Piece(item, number, start, length, literal_offset))
            start += length
            filled += length
            if filled == block_bytes:
                yield finished()
        if item.kind is Kind.LITERAL:
            literal_offset += item.length
        if is_heavy and pieces:
            yield finished()
    if pieces:
        yield finished()


class BlockRuns:
    """Follows `blocks` through one instruction after the other, by arithmetic alone: `most` runs are in any block so far."""

    def __init__(self, block_bytes: int) -> None:
        self._block_bytes = block_bytes
        self._filled = self._runs = 0
        self.most = 0

    def add(self, item: Instruction) -> None:
        """One more instruction."""
        if item.is_heavy:
            # It has blocks of its own, one piece each.
            self._filled = self._runs = 0
            return
        unit, runs = item.record_bytes, runs_in(item)
        room = (self._block_bytes - self._filled) // unit * unit
        if not room:
            self._filled, self._runs = 0, 0
            room = self._block_bytes // unit * unit
        self._runs += runs
        self.most = max(self.most, self._runs)
        if item.length > room:
            # The last of its blocks is the one that others may share.
            capacity = self._block_bytes // unit * unit
            self._filled = (item.length - room - 1) % capacity + 1
            self._runs = runs
        else:
            self._filled += item.length
        if self._filled == self._block_bytes:
            self._filled = self._runs = 0


def runs_in(item: Instruction) -> int:
    """How many runs each of its pieces counts for: its fields, and more where every number is multiplied often."""
    multiplies = sum(item.scalars[1::2]) if item.predictor is Predictor.DECAY else 0
    return max(1, len(item.fields)) + multiplies // MULTIPLIES_PER_RUN
