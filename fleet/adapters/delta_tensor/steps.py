"""Instructions in the making, and which of them one instruction can make together. It reads no file."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from device_client.wire.tensor1.blocks import LARGE_RUN_BYTES
from device_client.wire.tensor1.format import MAX_INSTRUCTIONS, Instruction, Kind, Predictor
from fleet.adapters.delta_tensor.fitting import Fit
from fleet.adapters.delta_tensor.records import in_records

NO_TENSORS: Final = range(0)
_MANY_STEPS: Final = MAX_INSTRUCTIONS // 4


@dataclass(slots=True)
class Step:
    """An instruction in the making."""

    item: Instruction
    fit: Fit | None = None
    # Numbers in the new file's layout.
    tensors: range = NO_TENSORS


def end_of(steps: Sequence[Step]) -> int | None:
    """Where the old bytes of the last step end: the likeliest place for what comes next. 0 at the start."""
    if not steps:
        return 0
    item = steps[-1].item
    return item.old_offset + item.old_length if item.old_record_bytes else None


def joined(steps: Sequence[Step]) -> list[Step]:
    """Neighbours that one instruction can make. Small tensors that were neighbours before are one run, as they would be coded anyway."""
    made: list[Step] = []
    for step in steps:
        if made and step.item.kind is not Kind.STREAM:
            last = made[-1].item
            read = last.length if last.kind is Kind.LITERAL else last.old_length
            plain = last.kind is not Kind.DELTA or last.predictor in {Predictor.SAME, Predictor.NOTHING}
            if plain and last.old_offset + read == step.item.old_offset and _is_alike(made[-1], step):
                made[-1] = Step(replace(last, length=last.length + step.item.length), tensors=_named(made[-1], step))
                continue
        made.append(step)
    return made


def fewer(steps: Sequence[Step]) -> Sequence[Step]:
    """The same in fewer steps, where there are so many that they might be too many."""
    if len(steps) <= _MANY_STEPS:
        return steps
    recorded: list[Step] = []
    at = 0
    for count, item in in_records([step.item for step in steps]):
        part = steps[at : at + count]
        tensors = [step.tensors for step in part if step.tensors]
        named = range(tensors[0].start, tensors[-1].stop) if tensors else NO_TENSORS
        recorded.append(part[0] if count == 1 else Step(item, tensors=named))
        at += count
    return recorded


def _is_alike(last: Step, step: Step) -> bool:
    """Whether two steps say the same of different bytes."""
    if last.item.kind is not step.item.kind:
        return False
    if step.item.kind is Kind.DELTA and last.tensors != step.tensors:
        # Runs that are large enough are coded alone, by rows and columns.
        is_small = last.item.length + step.item.length < LARGE_RUN_BYTES and len(step.item.fields) == 1
        if not (is_small and last.tensors and step.tensors):
            return False
    return replace(last.item, length=step.item.length, old_offset=step.item.old_offset) == step.item


def _named(last: Step, step: Step) -> range:
    """The tensors that a joint step is said to make: of bytes that are copied or literal, the first one's."""
    is_shared = step.item.kind is Kind.DELTA and last.tensors != step.tensors
    return range(last.tensors.start, step.tensors.stop) if is_shared else last.tensors
