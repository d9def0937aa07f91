"""A folder whose power can be cut: what was not synced is then there in part, in any order, torn at pages."""

import random
from dataclasses import dataclass, field

PAGE = 4_096


class LightsOutError(BaseException):
    """The power was cut in the middle of a call. No `except Exception` may hold it."""


@dataclass
class VolatileFile:
    """`File`. `now` is what a running system sees, `safe` what is on the disk for certain."""

    folder: "VolatileFolder"
    now: bytearray = field(default_factory=bytearray)
    safe: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes]] = field(default_factory=list)  # writes; truncations have the size and no bytes
    reserved: int = 0

    @property
    def size(self) -> int:
        return len(self.now)

    def read_at(self, offset: int, length: int) -> bytes:
        return bytes(self.now[offset : offset + length])

    def write_at(self, offset: int, content: bytes | bytearray) -> None:
        self.folder.step()
        for start in range(0, len(content), PAGE):
            self._do(offset + start, bytes(content[start : start + PAGE]))

    def truncate(self, size: int) -> None:
        self.folder.step()
        self.reserved = min(self.reserved, size)
        self._do(size, b"")

    def reserve(self, size: int) -> None:
        self.folder.step()
        if size > self.folder.room_bytes or (self.folder.is_taken and size > max(self.reserved, self.size)):
            raise OSError(28, "No space left on device")
        self.reserved = max(self.reserved, size)

    def sync(self) -> None:
        self.folder.step()
        self.folder.syncs += 1
        self.safe, self.pending = bytearray(self.now), []

    def _do(self, offset: int, content: bytes) -> None:
        end = offset + len(content)
        if content and (end > self.folder.room_bytes or (self.folder.is_taken and end > max(self.reserved, self.size))):
            raise OSError(28, "No space left on device")
        _write(self.now, offset, content)
        self.pending.append((offset, content))

    def lose(self, dice: random.Random) -> None:
        """The power is back: some of what was pending had reached the disk."""
        for offset, content in self.pending:
            if dice.random() < 0.5:
                _write(self.safe, offset, content)
        self.now, self.pending = bytearray(self.safe), []


def _write(target: bytearray, offset: int, content: bytes) -> None:
    if not content:
        del target[offset:]
    target.extend(bytes(max(0, offset - len(target))))
    target[offset : offset + len(content)] = content


@dataclass
class VolatileFolder:
    """`Folder`. With `cut_at`, the power is cut at that call that changes something."""

    files: dict[str, VolatileFile] = field(default_factory=dict)
    safe: dict[str, VolatileFile] = field(default_factory=dict)
    room_bytes: int = 1 << 40  # for each file
    is_taken: bool = False  # others have taken all room that was not reserved: no file grows beyond that
    cut_at: int | None = None
    steps: int = 0
    syncs: int = 0

    def step(self) -> None:
        self.steps += 1
        if self.cut_at is not None and self.steps > self.cut_at:
            raise LightsOutError(self.steps)

    def open(self, name: str) -> VolatileFile:
        if name not in self.files:
            self.step()
        return self.files.setdefault(name, VolatileFile(self))

    def names(self) -> list[str]:
        return sorted(self.files)

    def remove(self, name: str) -> None:
        self.step()
        self.files.pop(name, None)

    def sync(self) -> None:
        self.step()
        self.safe = dict(self.files)

    def cut(self, dice: random.Random) -> None:
        """Lights out, and on again."""
        certain = self.safe.keys() & self.files.keys()
        both = {**self.safe, **self.files}
        self.files = {name: file for name, file in both.items() if name in certain or dice.random() < 0.5}
        for file in self.files.values():
            file.lose(dice)
        self.safe = dict(self.files)
        self.cut_at, self.steps = None, 0
