"""Deltas between files on disk, for people and benchmarks: made, applied, looked into.

Results appear whole or not at all: they are written beside their name, proven, synced, and renamed. A `bsdiff4` patch
says nothing of the files that it is for, so one that is made here carries their digests behind its end, where other
readers of the format do not look. A `tensor1` patch has them in its header.
"""

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self, cast

from device_client.wire.delta import Codec
from device_client.wire.errors import MalformedPatchError
from device_client.wire.tensor1 import decoder
from device_client.wire.tensor1.errors import OutputMismatchError, WrongBaseError
from device_client.wire.tensor1.format import MAGIC
from fleet.adapters.delta_bsdiff4 import diff, is_tried, patched, read_header
from fleet.adapters.delta_proof import proven_sha256
from fleet.adapters.delta_tensor import Coding, TensorStats, encode
from fleet.domain.layouts import Layout, describe

_TRAILER_MAGIC: Final = b"sha256s\n"
_TRAILER_BYTES: Final = len(_TRAILER_MAGIC) + 64
_HASHED_BYTES: Final = 1 << 20
# A name may have 255 letters, and a draft's has more than the file's.
_PREFIX_LETTERS: Final = 40
# What may stand between a model's name and the end of the name of a file with its data.
_DATA_SUFFIXES: Final = (".data", "_data", ".bin", ".weights")


class PreadFile:
    """A regular file by offset: `RandomAccess` for layouts, encoder and decoder. Never in memory as a whole.

    Raises OSError with the file's name for what cannot be read by offset, a directory or a pipe, and waits for none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(self._descriptor)
            raise OSError(errno.EINVAL, f"expected a regular file, got {_kind(status.st_mode)}", str(path))
        self.size = status.st_size
        self._state = _state(status)

    def read_at(self, offset: int, length: int) -> bytes:
        """`length` bytes at `offset`, fewer only at the file's end; raises OSError where somebody moved that meanwhile."""
        try:
            content = os.pread(self._descriptor, length, offset)
            while 0 < len(content) < min(length, self.size - offset):
                more = os.pread(self._descriptor, length - len(content), offset + len(content))
                if not more:
                    break
                content += more
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        if len(content) < min(length, self.size - offset):
            raise self._written_to()
        return content

    def sha256(self) -> bytes:
        """Of all of it."""
        digest = hashlib.sha256()
        for start in range(0, self.size, _HASHED_BYTES):
            digest.update(self.read_at(start, _HASHED_BYTES))
        return digest.digest()

    def check_unchanged(self) -> None:
        """Raise OSError if somebody wrote to it since it was opened: what was read may be of no one file then."""
        if _state(os.fstat(self._descriptor)) != self._state:
            raise self._written_to()

    def _written_to(self) -> OSError:
        said = "expected a file that stays as it is while it is read, got one that was written to"
        return OSError(errno.EBUSY, said, str(self._path))

    def is_same_as(self, path: Path) -> bool:
        """Whether `path` leads to this very file, by whatever name or link."""
        return path.exists() and os.path.samestat(os.fstat(self._descriptor), path.stat())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)


def _state(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


@dataclass(frozen=True)
class CreatedPatch:
    """A patch that was made, and proven with the decoder."""

    codec: Codec
    patch_bytes: int
    old_bytes: int
    new_bytes: int
    tensors: tuple[TensorStats, ...] = ()
    # Of more tensors than a patch has instructions for, the smaller ones are bytes like any other.
    taken_as_bytes: int = 0


def layout_of(path: Path) -> Layout:
    """The layout of a file, with the help of the model file beside it if it is the data of one."""
    description = _description_of(path)
    with PreadFile(path) as file:
        if description is None:
            return describe(file)
        with PreadFile(description) as beside:
            return describe(file, name=path.name, description=beside)


def _description_of(path: Path) -> Path | None:
    """`model.onnx` for `model.onnx.data` or `model.data`, `model.xml` for `model.bin`."""
    for suffix in _DATA_SUFFIXES:
        if path.name.endswith(suffix):
            stem = path.name.removesuffix(suffix)
            for name in (stem, f"{stem}.onnx", f"{stem}.xml"):
                if name.endswith((".onnx", ".xml")) and path.with_name(name).is_file():
                    return path.with_name(name)
    return None


def create(old: Path, new: Path, patch: Path, codec: Codec | None, coding: Coding = Coding.PCODEC) -> CreatedPatch:
    """Make `patch`; without a codec the one that makes the smaller one. Raises OSError, DeltaTooExpensiveError."""
    with PreadFile(old) as before, PreadFile(new) as after, _finished(patch, (before, after)) as (file, path):
        made, tensors, taken_as_bytes = Codec.BSDIFF4, tuple[TensorStats, ...](), 0
        if codec is not Codec.BSDIFF4:
            made = Codec.TENSOR1 if coding is Coding.PCODEC else Codec.TENSOR1_PORTABLE
            said = encode(before, after, layout_of(old), layout_of(new), file, coding=coding)
            tensors, taken_as_bytes = said.tensors, said.taken_as_bytes
            file.seek(0, os.SEEK_END)
            file.flush()
        if codec is Codec.BSDIFF4 or (codec is None and is_tried(before.size, after.size)):
            other = diff(old, new) + _TRAILER_MAGIC + before.sha256() + after.sha256()
            if codec is Codec.BSDIFF4 or len(other) < file.tell():
                made, tensors, taken_as_bytes = Codec.BSDIFF4, (), 0
                file.seek(0)
                file.truncate()
                file.write(other)
                file.flush()
        try:
            with PreadFile(path) as written:
                _prove(written, before)
        finally:
            # Which is also why a proof may have failed.
            before.check_unchanged()
            after.check_unchanged()
        return CreatedPatch(made, path.stat().st_size, before.size, after.size, tensors, taken_as_bytes)


def apply(old: Path, patch: Path, new: Path) -> int:
    """Make `new` of `old`; returns its length. Raises OSError or MalformedPatchError, and leaves `new` as it was then."""
    with (
        PreadFile(old) as before,
        PreadFile(patch) as source,
        _finished(new, (before, source)) as (file, path),
    ):
        announced, room = _announced_bytes(source), os.statvfs(path)
        # Some that live in memory do not count what they have.
        if room.f_blocks and announced > room.f_bavail * room.f_frsize:
            said = f"expected room for {announced} bytes, got {room.f_bavail * room.f_frsize}"
            raise OSError(errno.ENOSPC, said, str(new))
        _apply_to(before, source, file)
        return announced


def _is_tensor1(patch: PreadFile) -> bool:
    return patch.read_at(0, len(MAGIC)) == MAGIC


def _announced_bytes(patch: PreadFile) -> int:
    return decoder.read_header(patch).new_bytes if _is_tensor1(patch) else read_header(patch).new_bytes


def _prove(patch: PreadFile, old: PreadFile) -> None:
    """Raise MalformedPatchError unless the patch makes what has the digest that stands in it, which is that of the new file."""
    if _is_tensor1(patch):
        proven_sha256(patch, old)
    else:
        _apply_bsdiff4(old, patch, len)  # which looks at each piece and keeps none


def _apply_to(old: PreadFile, patch: PreadFile, out: BinaryIO) -> None:
    if not _is_tensor1(patch):
        _apply_bsdiff4(old, patch, out.write)
        return
    decoder.check_base(decoder.read_header(patch), old)

    def write(offset: int, content: bytes | bytearray) -> None:
        del offset  # Blocks come in order and leave no gaps.
        out.write(content)

    decoder.apply(patch, old, write)


def _apply_bsdiff4(old: PreadFile, patch: PreadFile, put: Callable[[bytes], object]) -> None:
    read_header(patch)
    end = max(patch.size - _TRAILER_BYTES, 0)
    trailer = patch.read_at(end, _TRAILER_BYTES)
    if len(trailer) < _TRAILER_BYTES or not trailer.startswith(_TRAILER_MAGIC):
        raise MalformedPatchError("expected a bsdiff4 patch that ends with its files' digests, got one without")
    base, made = trailer[len(_TRAILER_MAGIC) :][:32], trailer[-32:]
    if old.sha256() != base:
        raise WrongBaseError(f"expected an old file with sha256 {base.hex()}, got another one")
    digest = hashlib.sha256()

    def write(content: bytes) -> None:
        digest.update(content)
        put(content)

    patched(old, patch, end, write)
    if digest.digest() != made:
        raise OutputMismatchError(f"expected a result with sha256 {made.hex()}, got another one")


@contextmanager
def _finished(path: Path, inputs: Iterable[PreadFile]) -> Iterator[tuple[BinaryIO, Path]]:
    """A file that becomes `path` when the block ends well, and that leaves no trace when it does not.

    Raises OSError where that would replace one of the inputs, or what is no regular file. Through a link it is what the link
    leads to that is replaced, as `cp` does; a link that leads nowhere is refused, as `cp` does too.
    """
    if path.is_symlink() and not path.exists():
        raise OSError(errno.ENOENT, "expected a file or nothing, got a link that leads nowhere", str(path))
    if path.exists() and not path.is_file():
        said = f"expected a regular file or nothing, got {_kind(path.stat().st_mode)}"
        raise OSError(errno.EINVAL, said, str(path))
    if any(file.is_same_as(path) for file in inputs):
        raise OSError(errno.EINVAL, "expected another file than those that are read, got one of them", str(path))
    place = path.resolve() if path.is_symlink() else path
    # Named before it is made, so that it is removed at whatever moment this ends.
    draft = place.with_name(f".{place.name[:_PREFIX_LETTERS]}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w+b") as file:
            yield cast("BinaryIO", file), draft
            file.flush()
            os.fsync(file.fileno())
        # Whoever made a file private before did not mean its next version to be public.
        draft.chmod(stat.S_IMODE(place.stat().st_mode) if place.exists() else 0o666 & ~_umask())
        draft.replace(place)
        _sync(place.parent)
    except OSError as error:
        # What was read has its name in the error; the rest concerns this file, by whatever name it had by then.
        if error.filename in {None, str(draft)}:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        draft.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _umask() -> int:
    current = os.umask(0o077)
    os.umask(current)
    return current
