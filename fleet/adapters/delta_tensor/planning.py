"""Decides what every byte of the new file is made from: a list of instructions, with parameters and names beside them.

Tensors first: equal ones are copied, others get the predictor that a sample says is best. The bytes between them are
matched against the old file's, and what has no match is literal, or a stream when there is much of it.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from device_client.wire.tensor1.elements import Element
from device_client.wire.tensor1.format import (
    MAX_OLD_ROWS,
    MAX_PARAMETER_SHARE,
    MAX_STREAM_BYTES,
    MIN_COLUMNS,
    Instruction,
    Kind,
    Predictor,
)
from device_client.wire.tensor1.io import RandomAccess
from device_client.wire.tensor1.reach import reach_back
from device_client.wire.tensor1.streams import STORED
from fleet.adapters.delta_tensor import fitting, low_rank, samples
from fleet.adapters.delta_tensor.byte_matching import equal
from fleet.adapters.delta_tensor.fitting import Fit, Pair
from fleet.adapters.delta_tensor.other_bytes import OtherBytes
from fleet.adapters.delta_tensor.residual_coding import Coding
from fleet.adapters.delta_tensor.samples import Sample
from fleet.adapters.delta_tensor.scales import Derived, Scales
from fleet.adapters.delta_tensor.steps import Step, fewer, joined
from fleet.adapters.delta_tensor.streams import lzma_ratio, method_of
from fleet.adapters.delta_tensor.tensors import Pairing, Tensor, is_transposed, squeezed, tensor_of
from fleet.adapters.delta_tensor.threads import THREADS
from fleet.domain.layouts import Layout, Segment

# Tensors below this are bytes among the others when they have changed and nothing predicts them.
_SMALL: Final = 512
# Literals up to this stand in the prologue, which a device holds in memory; longer runs are streams.
_MAX_LITERALS: Final = 256 << 10
_STREAM_FROM: Final = 2048
# Classes of rows and columns, which samples do not show, take a part of what a product of thin matrices would save.
_WORTH: Final = {Predictor.LOW_RANK: 0.9}
_MIN_FITTED: Final = 4096
# Bytes of tensors that a thread looks at in one go, and how many tensors.
_BATCH: Final = 256 << 10
_MAX_BATCH: Final = 64


@dataclass(frozen=True, slots=True)
class Plan:
    """Instructions in the order of the new file; parameters, their records and tensor numbers by instruction."""

    instructions: tuple[Instruction, ...]
    parameters: Mapping[int, bytes] = field(default_factory=dict)
    records: Mapping[int, bytes] = field(default_factory=dict)
    tensors: Mapping[int, range] = field(default_factory=dict)
    # Elements in a row of those that make a plain matrix from its start.
    columns: Mapping[int, int] = field(default_factory=dict)
    literals: bytes = b""
    reach_back: int = 0
    # Tensors that did not change; copies of neighbours are one instruction.
    unchanged: frozenset[int] = frozenset()


_Match: TypeAlias = tuple[Segment, Segment | None]


@dataclass(slots=True)
class Planner:
    """Plans one pair."""

    old: RandomAccess
    new: RandomAccess
    old_layout: Layout
    new_layout: Layout
    coding: Coding
    block_bytes: int
    _steps: list[Step] = field(default_factory=list)
    _unchanged: set[int] = field(default_factory=set)
    _pairing: Pairing = field(init=False)
    _scales: Scales = field(init=False)

    def plan(self) -> Plan:
        """Everything, in order."""
        self._pairing = Pairing(self.old, self.old_layout)
        matched = [(segment, self._pairing.match(self.new, segment)) for segment in self.new_layout.segments]
        self._scales = Scales(self.old, self.new, matched)
        position = 0
        for number, ((segment, _), step) in enumerate(zip(matched, self._tensors(matched), strict=True)):
            if step is None:
                continue
            self._open(position, segment.offset)
            for part in step:
                part.tensors = range(number, number + 1)
                if part.item.kind is Kind.COPY:
                    self._unchanged.add(number)
                self._steps.append(part)
            position = segment.end
        self._open(position, self.new.size)
        others = OtherBytes(self.old, self.new, self.old_layout, self.coding)
        return self._finished(others.fill(self._steps))

    # ------------------------------------------------------------------------------------ tensors

    def _tensors(self, matched: Sequence[_Match]) -> Iterator[list[Step] | None]:
        """How to make each tensor, in order. They are looked at beside each other, unless what one takes is gone for the next."""
        if self._scales.is_limited:
            yield from (self._tensor(*match) for match in matched)
            return
        pool = ThreadPoolExecutor(THREADS)
        try:
            for steps in pool.map(self._batch, _batches(matched)):
                yield from steps
        finally:
            pool.shutdown(cancel_futures=True)

    def _batch(self, matched: Sequence[_Match]) -> list[list[Step] | None]:
        return [self._tensor(*match) for match in matched]

    def _tensor(self, segment: Segment, source: Segment | None) -> list[Step] | None:
        """How to make a tensor; None leaves its bytes to the search for equal bytes."""
        tensor = tensor_of(segment)
        scales = self._scales.at(segment.offset)
        if scales is not None and tensor.element is Element.F32 and tensor.count == scales.count:
            return [self._derived(tensor, scales)]
        if source is None:
            return None if segment.length < _MIN_FITTED else self._alone(tensor, segment.offset, segment.length)
        before = tensor_of(source)
        if before.fields == tensor.fields and not self._pairing.is_turned(segment, source):
            shared = min(source.length, segment.length)
            if shared == segment.length and equal(self.old, self.new, source.offset, segment.offset, shared):
                return [Step(Instruction(Kind.COPY, shared, source.offset))]
            steps = self._predicted(tensor, before, shared)
            rest = segment.length - shared
            return steps + (self._alone(tensor, segment.offset + shared, rest) if rest else [])
        if source.elements == segment.elements and tensor.element is not None and before.element is not None:
            return self._converted(tensor, before)
        packed = fitting.packed(self.old, self.new, before, tensor)
        if packed is not None:
            return [Step(packed)]
        return None if segment.length < _SMALL else self._alone(tensor, segment.offset, segment.length)

    def _alone(self, tensor: Tensor, offset: int, length: int) -> list[Step]:
        """A tensor without a past: as numbers, or as bytes where those are smaller."""
        if length < _SMALL:
            return self._gap_later(offset, length)
        element = tensor.element
        if element is not None and element.is_float:
            sample = samples.take(
                self.new, self.new, (offset, offset), (element, element), count=length // element.width, inner=1
            )
            numbers = sample.coded(None, self.coding)
            if numbers < 8.0 * element.width * lzma_ratio(self.new, offset, length):
                return [Step(Instruction(Kind.DELTA, length, fields=tensor.fields))]
        return self._gap_later(offset, length)

    @staticmethod
    def _gap_later(offset: int, length: int) -> list[Step]:
        return [Step(Instruction(Kind.LITERAL, length, offset))]

    def _predicted(self, tensor: Tensor, before: Tensor, length: int) -> list[Step]:
        """A tensor from one of the same type."""
        same = Instruction(Kind.DELTA, length, before.segment.offset, Predictor.SAME, tensor.fields)
        element = tensor.element
        if element is None or length < _MIN_FITTED:
            return [Step(same)]
        offsets = (before.segment.offset, tensor.segment.offset)
        count = length // element.width
        inner = tensor.inner if count % tensor.inner == 0 else count
        sample = samples.take(self.old, self.new, offsets, (element, element), count=count, inner=inner)
        cost = sample.cost(same, b"", self.coding)
        if cost == 0:
            return [Step(same)]
        fits: Iterator[Fit] = iter(())
        pair = None
        if element.is_float and element is not Element.F64:
            pair = Pair(self.old, self.new, *offsets, element, element, count, inner)
            fits = fitting.float_fits(pair, sample)
        elif element in {Element.I8, Element.U8} and length == tensor.segment.length:
            fits = fitting.requantise(self.old, self.new, before.segment, tensor.segment)
        step, cost = self._best(Step(same), cost, fits, sample, count)
        if pair is not None and step.fit is None:
            # What was decayed or scaled as a whole is no old tensor with a product added.
            found = low_rank.products(pair, (1 - _WORTH[Predictor.LOW_RANK]) * cost)
            step, cost = self._best(step, cost, found, sample, count)
        if element.is_float and cost > 0.75 * 8 * element.width:
            alone = sample.coded(None, self.coding)
            if alone < cost:
                return [Step(Instruction(Kind.DELTA, length, fields=tensor.fields))]
        return [step]

    def _derived(self, tensor: Tensor, scales: Derived) -> Step:
        """A vector of scales, which is made of parameters alone."""
        plain = Fit(Predictor.SCALES, (1, scales.count), scales.scales.tobytes())
        fit = fitting.derived(plain, scales.derivation, self.old)
        item = Instruction(Kind.DELTA, tensor.segment.length, fields=tensor.fields)
        return Step(_with(item, fit, None), fit)

    def _converted(self, tensor: Tensor, before: Tensor) -> list[Step] | None:
        """A tensor from one of another type."""
        element, old_element = tensor.element, before.element
        segment = tensor.segment
        if element is None or old_element is None or not old_element.is_float or segment.length < _SMALL // 4:
            return None
        for rows in self._orders(tensor, before.segment):
            item = Instruction(Kind.DELTA, segment.length, before.segment.offset, fields=tensor.fields, old_rows=rows)
            offsets = (before.segment.offset, segment.offset)
            sample = samples.take(
                self.old, self.new, offsets, (old_element, element), count=tensor.count, inner=tensor.inner, rows=rows
            )
            alone = Step(item)
            fits = self._conversions(segment, element, sample)
            step, _ = self._best(alone, sample.coded(None, self.coding), fits, sample, tensor.count)
            if step is not alone:
                return [step]
        return None if segment.length < _SMALL else self._alone(tensor, segment.offset, segment.length)

    def _orders(self, tensor: Tensor, source: Segment) -> Iterator[int]:
        """How the old numbers may have to be read: as they lie (0), or by the columns of so many rows."""
        turned = is_transposed(source, tensor.segment)
        rows, *_ = squeezed(source.shape) or (1,)
        if not turned or rows * rows == tensor.count:
            yield 0
        if turned and rows <= MAX_OLD_ROWS and rows * tensor.record_bytes * MIN_COLUMNS <= self.block_bytes:
            yield rows

    def _conversions(self, segment: Segment, element: Element, sample: Sample) -> Iterator[Fit]:
        """What may have been done to floats that are of another type, or in another order, now."""
        if element.is_float:
            return iter([Fit(Predictor.CAST)])
        if element in {Element.I8, Element.U8, Element.I16, Element.U16, Element.I32}:
            described = segment.quantisation
            known = self._scales.at(described.scale_offset) if described is not None else None
            derivation = known.derivation if known is not None else None
            return fitting.quantise(self.old, self.new, segment, sample, derivation)
        return iter(())

    def _best(self, step: Step, cost: float, fits: Iterator[Fit], sample: Sample, count: int) -> tuple[Step, float]:
        """The cheapest of the instruction as it is and with each fit. Bits an element, parameters counted."""
        for fit in fits:
            if len(fit.parameters) > MAX_PARAMETER_SHARE * step.item.length:
                continue
            item = _with(step.item, fit, sample.old_element)
            price = sample.cost(item, fit.parameters, self.coding) + 8.0 * fit.price_bytes / count
            if price < _WORTH.get(fit.predictor, 0.99) * cost:
                step, cost = Step(item, fit), price
        return step, cost

    # ------------------------------------------------------------------------------------ other bytes

    def _open(self, start: int, end: int) -> None:
        """Bytes that no tensor step makes; LITERAL steps hold their place until `_fill`. Their old_offset is the new one."""
        if end > start:
            self._steps.extend(self._gap_later(start, end - start))

    # ------------------------------------------------------------------------------------ finish

    def _finished(self, filled: Sequence[Step]) -> Plan:
        literals = bytearray()
        steps: list[Step] = []
        for step in fewer(joined(filled)):
            steps += self._placed(step, literals) if step.item.kind is Kind.LITERAL else [step]
        instructions = tuple(step.item for step in steps)
        return Plan(
            instructions,
            {number: step.fit.parameters for number, step in enumerate(steps) if step.fit and step.fit.parameters},
            {number: step.fit.written for number, step in enumerate(steps) if step.fit and step.fit.parameters},
            {number: step.tensors for number, step in enumerate(steps) if step.tensors},
            {number: columns for number, step in enumerate(steps) if (columns := self._columns(step))},
            bytes(literals),
            reach_back(instructions),
            frozenset(self._unchanged),
        )

    def _columns(self, step: Step) -> int:
        """How long the rows are that a step makes; 0 for what is no matrix."""
        if len(step.tensors) != 1 or step.item.kind is not Kind.DELTA or len(step.item.fields) > 1:
            return 0
        tensor = tensor_of(self.new_layout.segments[step.tensors[0]])
        return tensor.inner if tensor.fields == step.item.fields and tensor.element is not None else 0

    def _placed(self, step: Step, literals: bytearray) -> list[Step]:
        """A run of plain bytes: a literal, or streams if it is long."""
        offset, length = step.item.old_offset, step.item.length
        if length < _STREAM_FROM and len(literals) + length <= _MAX_LITERALS:
            literals += self.new.read_at(offset, length)
            return [Step(Instruction(Kind.LITERAL, length), tensors=step.tensors)]
        method = method_of(self.new, offset, length)
        return [Step(item, tensors=step.tensors) for item in streams(length, method)]


def _batches(matched: Sequence[_Match]) -> Iterator[Sequence[_Match]]:
    """Runs of neighbours with enough to do that handing them to a thread costs nothing beside."""
    start = size = 0
    for number, (segment, _) in enumerate(matched, 1):
        size += segment.length
        if size >= _BATCH or number - start == _MAX_BATCH or number == len(matched):
            yield matched[start:number]
            start, size = number, 0


def streams(length: int, method: int) -> list[Instruction]:
    """A run of bytes as streams: as few as a device takes."""
    step = max(length, 1) if method == STORED else MAX_STREAM_BYTES
    return [Instruction(Kind.STREAM, min(step, length - start), scalars=(method,)) for start in range(0, length, step)]


def _with(item: Instruction, fit: Fit, old_element: Element | None) -> Instruction:
    """The instruction with a predictor."""
    return replace(
        item,
        predictor=fit.predictor,
        old_element=old_element,
        scalars=fit.scalars,
        parameter_bytes=len(fit.parameters),
        derivation=fit.derivation,
    )
