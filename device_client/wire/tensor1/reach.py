"""How far behind the place of writing a patch still reads the old file: what an apply in place must have kept aside."""

from collections.abc import Iterable

from device_client.wire.tensor1.format import Instruction


def reach_back(instructions: Iterable[Instruction]) -> int:
    """Bytes of the old file before the place of writing that are still wanted, at most, at any place; 0 if none are."""
    offset = reach = 0
    for item in instructions:
        if item.old_rows:
            # Every column begins in the first row.
            reach = max(reach, offset + item.length - item.old_offset)
        elif item.old_record_bytes:
            # Reads move evenly from the first record to the last, so one of both is the furthest behind.
            last = offset + item.length - item.record_bytes
            last_read = item.old_offset + item.old_length - item.old_record_bytes
            reach = max(reach, offset - item.old_offset, last - last_read)
        if item.derivation is not None:
            # Derived again whenever decoding resumes within it.
            reach = max(reach, offset + item.length - item.derivation.old_offset)
        offset += item.length
    return reach
