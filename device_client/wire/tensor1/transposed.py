"""A matrix of the old file in the order of its columns: for tensors that a conversion has transposed.

Only what is asked for is read, a run of each row that it touches, so a block costs as many reads as the matrix has rows at most.
`format.MIN_COLUMNS` bounds that: no row is so short in a block that reading it costs more than the numbers are worth.
"""

from collections.abc import Callable

from device_client.wire.tensor1.format import Instruction

Read = Callable[[int, int], bytes]


def read_by_columns(item: Instruction, first: int, count: int, read: Read) -> bytes:
    """The old bytes of elements `first` to `first + count` of the new tensor, which is the old one by columns."""
    import numpy as np

    width, rows = item.old_record_bytes, item.old_rows
    columns = item.length // item.record_bytes // rows
    left, right = first // rows, -(-(first + count) // rows)
    top, bottom = (first % rows, first % rows + count) if right - left == 1 else (0, rows)
    run = (right - left) * width
    content = b"".join(read(item.old_offset + (row * columns + left) * width, run) for row in range(top, bottom))
    cells = np.frombuffer(content, dtype=f"V{width}").reshape(bottom - top, right - left)
    start = first - left * rows - top
    return cells.T.reshape(-1)[start : start + count].tobytes()
