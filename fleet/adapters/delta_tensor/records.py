"""Small tensors at equal distances, as formats with a name before each have them: one run of records instead of two instructions each.

A record is a tensor and what stands between it and the next. It knows instructions only, and reads no file.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from device_client.wire.tensor1.elements import Element
from device_client.wire.tensor1.format import MAX_RECORD_BYTES, Field, Instruction, Kind, Predictor


def in_records(items: Sequence[Instruction]) -> Iterator[tuple[int, Instruction]]:
    """Instructions that make the same as these, fewer where that can be; with each, how many of these it stands for."""
    at = 0
    while at < len(items):
        count = _alike(items, at)
        # One tensor and the copy behind it is no run yet.
        if count > 2:  # noqa: PLR2004
            tensor, between = items[at], items[at + 1]
            element = tensor.fields[0].element
            fields = (Field(element, tensor.length // element.width), Field(Element.U8, between.length))
            yield count, replace(tensor, length=(tensor.length + between.length) * (count // 2), fields=fields)
        else:
            count = 1
            yield count, items[at]
        at += count


def _alike(items: Sequence[Instruction], start: int) -> int:
    """How many instructions from here on are tensors and copies in turn, all alike; an even number."""
    tensor = items[start]
    if start + 1 == len(items) or tensor != Instruction(
        Kind.DELTA, tensor.length, tensor.old_offset, Predictor.SAME, tensor.fields
    ):
        return 0
    between = items[start + 1]
    record_bytes = tensor.length + between.length
    if between.kind is not Kind.COPY or len(tensor.fields) != 1 or record_bytes > MAX_RECORD_BYTES:
        return 0
    number = 0
    while start + 2 * number + 1 < len(items):
        moved = number * record_bytes
        place = start + 2 * number
        wanted = (
            replace(tensor, old_offset=tensor.old_offset + moved),
            replace(between, old_offset=tensor.old_offset + tensor.length + moved),
        )
        if (items[place], items[place + 1]) != wanted:
            break
        number += 1
    return 2 * number
