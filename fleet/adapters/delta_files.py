"""Deltas between files on disk, for people and benchmarks: made, applied, looked into.

Results appear whole or not at all: they are written beside their name, proven, synced, and renamed. A `bsdiff4` patch
says nothing of the files that it is for, so one that is made here carries their digests behind its end, where other
readers of the format do not look. A `tensor1` patch has them in its header.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self, cast

from device_client.wire import delta as codecs
from device_client.wire.delta import Codec
from device_client.wire.errors import MalformedPatchError
from device_client.wire.tensor1 import decoder
from device_client.wire.tensor1.errors import OutputMismatchError, WrongBaseError
from device_client.wire.tensor1.format import MAGIC
from fleet.adapters.delta_bsdiff4 import diff
from fleet.adapters.delta_tensor import Coding, TensorStats, encode
from fleet.domain.layouts import Layout, describe

# Up to this size a second codec costs so little that it is tried too.
BSDIFF4_CANDIDATE_BYTES: Final = 16 << 20
_TRAILER_MAGIC: Final = b"sha256s\n"
_TRAILER_BYTES: Final = len(_TRAILER_MAGIC) + 64
# What may stand between a model's name and the end of the name of a file with its data.
_DATA_SUFFIXES: Final = (".data", "_data", ".bin", ".weights")


class PreadFile:
    """A file by offset: `RandomAccess` for layouts, encoder and decoder. Never in memory as a whole."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self._descriptor).st_size

    def read_at(self, offset: int, length: int) -> bytes:
        """`length` bytes at `offset`, fewer only at the file's end."""
        content = os.pread(self._descriptor, length, offset)
        while 0 < len(content) < min(length, self.size - offset):
            more = os.pread(self._descriptor, length - len(content), offset + len(content))
            if not more:
                break
            content += more
        return content

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)


@dataclass(frozen=True)
class CreatedPatch:
    """A patch that was made, and proven with the decoder."""

    codec: Codec
    patch_bytes: int
    old_bytes: int
    new_bytes: int
    tensors: tuple[TensorStats, ...] = ()


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
    sizes = old.stat().st_size, new.stat().st_size
    with _finished(patch) as (file, path):
        made, tensors = Codec.BSDIFF4, tuple[TensorStats, ...]()
        if codec is not Codec.BSDIFF4:
            made = Codec.TENSOR1 if coding is Coding.PCODEC else Codec.TENSOR1_PORTABLE
            with PreadFile(old) as before, PreadFile(new) as after:
                stats = encode(before, after, layout_of(old), layout_of(new), file, coding=coding)
            tensors = stats.tensors
            file.seek(0, os.SEEK_END)
            file.flush()
        if codec is Codec.BSDIFF4 or (codec is None and max(sizes) <= BSDIFF4_CANDIDATE_BYTES):
            other = _bsdiff4(old, new)
            if codec is Codec.BSDIFF4 or len(other) < file.tell():
                made, tensors = Codec.BSDIFF4, ()
                file.seek(0)
                file.truncate()
                file.write(other)
                file.flush()
        _prove(old, new, path)
        return CreatedPatch(made, path.stat().st_size, *sizes, tensors)


def _bsdiff4(old: Path, new: Path) -> bytes:
    patch = diff(old, new)
    digests = hashlib.sha256(old.read_bytes()).digest() + hashlib.sha256(new.read_bytes()).digest()
    return patch + _TRAILER_MAGIC + digests


def apply(old: Path, patch: Path, new: Path) -> int:
    """Make `new` of `old`; returns its length. Raises OSError or MalformedPatchError, and leaves `new` as it was then."""
    with _finished(new) as (file, _path):
        return _apply_to(old, patch, file)


def _prove(old: Path, new: Path, patch: Path) -> None:
    digest = _Digest()
    _apply_to(old, patch, digest)
    with new.open("rb") as file:
        if digest.value != hashlib.file_digest(file, "sha256").digest():
            raise OutputMismatchError("expected a patch that makes the new file, got one that makes another")


class _Digest:
    """Stands for a file that is not kept."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def write(self, content: bytes | bytearray) -> int:
        self._sha256.update(content)
        return len(content)

    @property
    def value(self) -> bytes:
        return self._sha256.digest()


def _apply_to(old: Path, patch: Path, out: "BinaryIO | _Digest") -> int:
    with PreadFile(patch) as source:
        if source.read_at(0, len(MAGIC)) != MAGIC:
            content = _bsdiff4_output(old, patch)
            out.write(content)
            return len(content)
        with PreadFile(old) as before:
            header = decoder.read_header(source)
            decoder.check_base(header, before)

            def write(offset: int, content: bytes | bytearray) -> None:
                del offset  # Blocks come in order and leave no gaps.
                out.write(content)

            decoder.apply(source, before, write)
            return header.new_bytes


def _bsdiff4_output(old: Path, patch: Path) -> bytes:
    content, before = patch.read_bytes(), old.read_bytes()
    announced = codecs.announced_bytes(Codec.BSDIFF4, content)
    trailer = content[-_TRAILER_BYTES:]
    if len(trailer) < _TRAILER_BYTES or not trailer.startswith(_TRAILER_MAGIC):
        raise MalformedPatchError("expected a bsdiff4 patch that ends with its files' digests, got one without")
    base, made = trailer[len(_TRAILER_MAGIC) :][:32], trailer[-32:]
    if hashlib.sha256(before).digest() != base:
        raise WrongBaseError(f"expected an old file with sha256 {base.hex()}, got another one")
    output = codecs.apply(Codec.BSDIFF4, before, content[:-_TRAILER_BYTES], expected_bytes=announced)
    if hashlib.sha256(output).digest() != made:
        raise OutputMismatchError(f"expected a result with sha256 {made.hex()}, got another one")
    return output


@contextmanager
def _finished(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A file that becomes `path` when the block ends well, and that leaves no trace when it does not."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield cast("BinaryIO", file), draft
            file.flush()
            os.fsync(file.fileno())
        draft.chmod(0o666 & ~_umask())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _umask() -> int:
    current = os.umask(0o077)
    os.umask(current)
    return current
