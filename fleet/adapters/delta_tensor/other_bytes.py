"""What is made of the bytes that no tensor's step makes: runs that are equal in the old file, and the rest beside what stood there.

LITERAL steps whose old offset is the new one hold their places until then.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from device_client.wire.tensor1.elements import Element
from device_client.wire.tensor1.format import MAX_INSTRUCTIONS, Field, Instruction, Kind, Predictor
from device_client.wire.tensor1.io import RandomAccess
from fleet.adapters.delta_tensor import samples
from fleet.adapters.delta_tensor.byte_matching import Search, equal
from fleet.adapters.delta_tensor.residual_coding import Coding
from fleet.adapters.delta_tensor.steps import Step, end_of, joined
from fleet.adapters.delta_tensor.streams import lzma_ratio
from fleet.domain.layouts import Layout

# Instructions that byte matches may take: the rest is for tensors.
_MAX_MATCHES: Final = MAX_INSTRUCTIONS // 4
# With this much more unmatched than the old file has outside tensors, all of it is worth an index.
_WIDE_SEARCH: Final = 64 << 10
_MIN_REGION: Final = 1024
_BYTES: Final = (Field(Element.U8, 1),)


@dataclass(frozen=True, slots=True)
class OtherBytes:
    """Fills the places of one pair."""

    old: RandomAccess
    new: RandomAccess
    old_layout: Layout
    coding: Coding

    def fill(self, steps: Sequence[Step]) -> Sequence[Step]:
        """The steps with what equal bytes of the old file and the rest make of the placeholders."""
        unmatched = sum(step.item.length for step in steps if step.item.kind is Kind.LITERAL)
        if not unmatched:
            return steps
        gaps = list(self.old_layout.gaps())
        if unmatched > 2 * sum(length for _, length in gaps) + _WIDE_SEARCH:
            gaps = [(0, self.old.size)]
        search = Search(self.old, self.new, gaps, _MAX_MATCHES)
        filled: list[Step] = []
        merged = joined(steps)
        for step, following in zip(merged, [*merged[1:], None], strict=True):
            if step.item.kind is not Kind.LITERAL:
                filled.append(step)
                continue
            offset, length = step.item.old_offset, step.item.length
            moved = end_of(filled)
            if (
                moved is not None
                and moved + length <= self.old.size
                and equal(self.old, self.new, moved, offset, length)
            ):
                filled.append(Step(Instruction(Kind.COPY, length, moved), tensors=step.tensors))
                continue
            position = offset
            for copy in search.matches(offset, length, moved, self._start_of(following)):
                filled += self._region(position, copy.new_offset - position, moved, copy.old_offset)
                filled.append(Step(Instruction(Kind.COPY, copy.length, copy.old_offset), tensors=step.tensors))
                position, moved = copy.new_offset + copy.length, copy.old_offset + copy.length
            at_end = self.old.size if offset + length == self.new.size else None
            filled += self._region(position, offset + length - position, moved, at_end)
        return filled

    def _start_of(self, step: Step | None) -> int | None:
        """Where the old bytes of a step begin; of none, where the old file ends."""
        if step is None:
            return self.old.size
        return step.item.old_offset if step.item.old_record_bytes else None

    def _region(self, offset: int, length: int, old_start: int | None, old_end: int | None) -> list[Step]:
        """Bytes without an equal run: predicted from what stands in the same place of the old file, if that helps."""
        if not length:
            return []
        literal = [Step(Instruction(Kind.LITERAL, length, offset))]
        starts = {old_start, old_end - length if old_end is not None else None} - {None}
        if length < _MIN_REGION or not starts:
            return literal
        best, cost = None, 0.9 * 8 * lzma_ratio(self.new, offset, length)
        for start in sorted(place for place in starts if place is not None):
            if not 0 <= start <= self.old.size - length:
                continue
            for element in (Element.U8, Element.BF16, Element.F16, Element.F32):
                price = self._byte_price(offset, start, length, element)
                if price < 0.98 * cost:
                    best, cost = (start, element), price
        return literal if best is None else self._aligned(offset, length, *best)

    def _byte_price(self, offset: int, start: int, length: int, element: Element) -> float:
        """Bits a byte if the run were numbers of this type, aligned to the new file."""
        skip = -offset % element.width
        count = (length - skip) // element.width
        if count < 1:
            return 8.0
        places = (start + skip, offset + skip)
        sample = samples.take(self.old, self.new, places, (element, element), count=count, inner=1)
        item = Instruction(Kind.DELTA, count * element.width, predictor=Predictor.SAME, fields=(Field(element, 1),))
        return sample.cost(item, b"", self.coding) / element.width

    def _aligned(self, offset: int, length: int, start: int, element: Element) -> list[Step]:
        skip = min(length, -offset % element.width)
        body = (length - skip) // element.width * element.width
        numbers = (Field(element, 1),)
        parts = ((0, skip, _BYTES), (skip, body, numbers), (skip + body, length - skip - body, _BYTES))
        return [
            Step(Instruction(Kind.DELTA, size, start + first, Predictor.SAME, fields))
            for first, size, fields in parts
            if size
        ]
