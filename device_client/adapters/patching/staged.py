"""A patch applied beside the old file while it arrives: the output grows block by block and can go on after any cut.

    output       the new file, as far as it is made
    journal      a mark per block
    head         the patch's header and instructions, which every start needs
    kept.<n>     the patch's bytes from n on that are read again, while the heavy instruction whose records start there is
                 under way: its parameters, or its stream so far

Of the patch, nothing else touches the disk. Everything is synced once 8 MiB are written or a second has passed, never for
each block: that would halve the speed and wear out flash.
"""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from device_client.adapters.patching import journal
from device_client.adapters.patching.files import File, Folder
from device_client.adapters.patching.journal import Mark, PatchJournal
from device_client.adapters.patching.stream import CHUNK_BYTES, Kept, StreamedPatch
from device_client.core.room import SYNC_BYTES
from device_client.wire.errors import WireError
from device_client.wire.tensor1 import Checkpoint, Header, RandomAccess, check_base, decode, read_header
from device_client.wire.tensor1.errors import PatchHeaderError
from device_client.wire.tensor1.format import HEADER_BYTES

SYNC_S: Final = 1.0
OUTPUT: Final = "output"
HEAD: Final = "head"
KEPT: Final = "kept."


@dataclass(frozen=True)
class Expected:
    """What the director and the pipeline have signed about a patch and the files that it stands between."""

    patch_sha256: bytes
    patch_bytes: int
    old_sha256: bytes
    new_sha256: bytes
    new_bytes: int

    @classmethod
    def of(cls, job: Mapping[str, Any]) -> "Expected":
        """As it stands in a child's job."""
        old, new, patch = (bytes.fromhex(job[name]) for name in ("old_sha256", "new_sha256", "patch_sha256"))
        return cls(patch, int(job["patch_bytes"]), old, new, int(job["new_bytes"]))

    def check(self, header: Header) -> None:
        """Raises `PatchHeaderError` if the patch says otherwise."""
        said = (header.old_sha256, header.new_sha256, header.new_bytes)
        if said != (self.old_sha256, self.new_sha256, self.new_bytes):
            raise PatchHeaderError(
                f"expected a patch from {self.old_sha256.hex()[:16]} to {self.new_sha256.hex()[:16]} of "
                f"{self.new_bytes} bytes, got one from {said[0].hex()[:16]} to {said[1].hex()[:16]} of {said[2]}"
            )


class StagedApply:
    """One patch in one folder. `clock` gives seconds that never go back."""

    def __init__(
        self, folder: Folder, expected: Expected, clock: Callable[[], float], sync_bytes: int = SYNC_BYTES
    ) -> None:
        self._folder = folder
        self._expected = expected
        self._clock = clock
        self._sync_bytes = sync_bytes
        self._output = folder.open(OUTPUT)
        self._journal = PatchJournal(folder.open(journal.NAME), expected.patch_sha256)
        self._head = folder.open(HEAD)
        self._last = self._restore()
        self._kept: Kept | None = None
        if self._last is not None and self._last.point.heavy_offset:
            point = self._last.point
            self._kept = Kept(folder.open(_kept_name(point)), point.heavy_offset, _kept_end(point))
        self._unsynced_bytes = 0
        self._dirty_since: float | None = None
        self._crc = 0

    @property
    def start(self) -> Checkpoint:
        """Where it goes on: the stream must begin at its `patch_offset`."""
        return Checkpoint(0, 0, 0) if self._last is None else self._last.point

    def run(self, take: Callable[[int], bytes], old: RandomAccess) -> None:
        """Apply what comes; raises `MalformedPatchError` or `PatchEndedError`. All that was made is synced in the end."""
        kept = tuple(item for item in (self._kept_head(), self._kept) if item is not None)
        patch = StreamedPatch(take, self._expected.patch_bytes, start=self.start.patch_offset, kept=kept)
        if self._last is None:
            self._begin(patch, old)
        try:
            for point in decode(patch, old, self._write, start=None if self._last is None else self._last.point):
                self._mark(patch, point)
                self.sync_if_due()
        finally:
            self._sync()

    def sync_if_due(self) -> None:
        """Keep to what a power cut may cost. Also for whoever waits for the network."""
        if self._dirty_since is not None and (
            self._unsynced_bytes >= self._sync_bytes or self._clock() - self._dirty_since >= SYNC_S
        ):
            self._sync()

    # ------------------------------------------------------------ going on

    def _restore(self) -> Mark | None:
        """The last mark that what is on disk bears out; everything beyond is cut off."""
        marks = self._journal.marks
        good = 1 if marks and marks[0].synced else 0
        proof = _KeptProof(self._folder)
        while good < len(marks):
            before = marks[good - 1].point.output_offset if good else 0
            mark = marks[good]
            block = self._output.read_at(before, mark.point.output_offset - before)
            whole = before + len(block) == mark.point.output_offset
            if not whole or zlib.crc32(block) != mark.output_crc or not proof.holds(mark):
                break
            good += 1
        last = marks[good - 1] if good and self._head_is_whole() else None
        self._journal.cut(good if last else 0)
        self._output.truncate(last.point.output_offset if last else 0)
        if last is None or self._output.size < last.point.output_offset:
            return None
        return last

    def _head_is_whole(self) -> bool:
        try:
            header = read_header(self._head)
            self._expected.check(header)
        except WireError:
            return False
        prologue = self._head.read_at(HEADER_BYTES, header.prologue_bytes)
        return len(prologue) == header.prologue_bytes and (not prologue or zlib.crc32(prologue) == header.prologue_crc)

    def _kept_head(self) -> Kept | None:
        return None if self._last is None else Kept(self._head, 0, self._head.size)

    # ------------------------------------------------------------ block by block

    def _begin(self, patch: StreamedPatch, old: RandomAccess) -> None:
        """Before the first block: the patch is the one that was signed, its base is here, its head is on disk."""
        header = read_header(patch)
        self._expected.check(header)
        check_base(header, old)
        self._head.truncate(0)
        self._head.write_at(0, patch.read_at(0, HEADER_BYTES + header.prologue_bytes))
        self._head.sync()
        self._folder.sync()

    def _write(self, offset: int, content: bytes | bytearray) -> None:
        self._output.write_at(offset, content)
        self._crc = zlib.crc32(content)
        self._unsynced_bytes += len(content)

    def _mark(self, patch: StreamedPatch, point: Checkpoint) -> None:
        kept_crc = self._keep(patch, point)
        self._last = Mark(point, self._crc, kept_crc)
        self._journal.add(self._last)
        patch.forget(point.patch_offset)
        if self._dirty_since is None:
            self._dirty_since = self._clock()

    def _keep(self, patch: StreamedPatch, point: Checkpoint) -> int:
        """Put aside what the heavy instruction under way would need after an interruption; returns its checksum."""
        if not point.heavy_offset:
            self._kept = None
            return 0
        crc = 0 if self._last is None else self._last.kept_crc
        if self._kept is None or self._kept.start != point.heavy_offset:
            file = self._folder.open(_kept_name(point))
            file.truncate(0)
            self._kept, crc = Kept(file, point.heavy_offset, point.heavy_offset), 0
        content = patch.read_at(self._kept.end, _kept_end(point) - self._kept.end)
        self._kept.file.write_at(self._kept.end - self._kept.start, content)
        self._kept = replace(self._kept, end=_kept_end(point))
        self._unsynced_bytes += len(content)
        return zlib.crc32(content, crc)

    def _sync(self) -> None:
        """Output and kept bytes first, then the mark that vouches for them."""
        if self._dirty_since is None or self._last is None:
            return
        self._output.sync()
        current = _kept_name(self._last.point) if self._kept is not None else ""
        if self._kept is not None:
            self._kept.file.sync()
            self._folder.sync()
        self._last = replace(self._last, output_crc=0, synced=True)
        self._journal.add(self._last)
        self._journal.sync()
        for name in self._folder.names():
            if name.startswith(KEPT) and name != current:
                self._folder.remove(name)
        self._unsynced_bytes, self._dirty_since = 0, None


class _KeptProof:
    """Whether the kept bytes that marks speak of are those that lie there, read once from the front."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._file: File | None = None
        self._start = self._end = self._crc = 0

    def holds(self, mark: Mark) -> bool:
        point = mark.point
        if not point.heavy_offset:
            return True
        if self._file is None or self._start != point.heavy_offset:
            self._file = self._folder.open(_kept_name(point))
            self._start = self._end = point.heavy_offset
            self._crc = 0
        end = _kept_end(point)
        while self._end < end:
            content = self._file.read_at(self._end - self._start, min(CHUNK_BYTES, end - self._end))
            if not content:
                return False
            self._crc = zlib.crc32(content, self._crc)
            self._end += len(content)
        return self._start < self._end == end and self._crc == mark.kept_crc


def _kept_name(point: Checkpoint) -> str:
    return f"{KEPT}{point.heavy_offset}"


def _kept_end(point: Checkpoint) -> int:
    return point.heavy_offset + point.heavy_bytes
