"""Files that are no weights: golden samples, labels, tokenizers, parameters. Plain data, or an allowed model format.

Also the signs by which code in disguise is known, whatever the file is called: pickles of every protocol, zip archives
(PyTorch, Keras 3, NumPy, joblib), HDF5, compressed streams. They are looked for in every file, weights included.
"""

import pickletools
from io import StringIO
from typing import Final

from device_client.wire.bundles import FileRole
from device_client.wire.errors import WireError
from device_client.wire.golden import MAX_GOLDEN_BYTES, decode_golden
from fleet.domain.errors import InvalidInputError
from fleet.domain.inspection.files import ByteSource, ForbiddenFileError, MalformedFileError

MAX_COMPANION_BYTES: Final = 64 << 20
_HEAD_BYTES: Final = 4_096
_MAX_PICKLE_BYTES: Final = 1 << 20
# A zip's directory is found from its end, behind a comment of at most 65,535 bytes.
_ZIP_TAIL_BYTES: Final = 65_535 + 22
_ZIP_END: Final = b"PK\x05\x06"
_ZIP_DIRECTORY: Final = b"PK\x01\x02"
_MAGICS: Final = (
    (b"PK\x03\x04", "a zip archive (PyTorch, Keras or NumPy)"),
    (b"PK\x05\x06", "a zip archive (PyTorch, Keras or NumPy)"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras)"),
    (b"\x93NUMPY", "a NumPy array, which may hold pickled objects"),
    (b"\x1f\x8b", "a gzip stream"),
    (b"BZh", "a bzip2 stream"),
    (b"\xfd7zXZ\x00", "an xz stream"),
    (b"\x28\xb5\x2f\xfd", "a zstandard stream"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"#!", "a script"),
)
_PICKLE_START: Final = 0x80
_PICKLE_PROTOCOLS: Final = range(2, 6)
_CALLING_OPCODES: Final = frozenset(
    {"GLOBAL", "STACK_GLOBAL", "REDUCE", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD", "PERSID", "BINPERSID"}
)


def refuse_disguises(source: ByteSource, what: str) -> None:
    """Raise ForbiddenFileError for a file that some loader would run as code; `what` names it in the message."""
    head = source.read(0, min(source.length, _HEAD_BYTES))
    for magic, meaning in _MAGICS:
        if head.startswith(magic):
            raise ForbiddenFileError(f"{what}: expected plain data or an allowed model format, got {meaning}")
    if len(head) > 1 and head[0] == _PICKLE_START and head[1] in _PICKLE_PROTOCOLS:
        raise ForbiddenFileError(f"{what}: expected plain data or an allowed model format, got a pickle")
    if _is_old_pickle(source):
        raise ForbiddenFileError(f"{what}: expected plain data, got a pickle of protocol 0 or 1")
    if _has_zip_directory(source):
        raise ForbiddenFileError(f"{what}: expected one file, got one with a zip archive behind it")


def inspect_companion(source: ByteSource, role: FileRole, name: str) -> None:
    """Check a file that is no weights. Raises InvalidInputError; returns nothing, since nothing is learnt from it."""
    refuse_disguises(source, name)
    if role in {FileRole.OTHER, FileRole.PARAMETERS, FileRole.TOKENIZER} and source.length > MAX_COMPANION_BYTES:
        return
    limit = MAX_GOLDEN_BYTES if role is FileRole.GOLDEN else MAX_COMPANION_BYTES
    if source.length > limit:
        raise InvalidInputError("file_too_large", f"{name}: expected at most {limit} bytes, got {source.length}")
    if role is FileRole.GOLDEN:
        _require_samples(source, name)
    elif role is FileRole.LABELS:
        _require_text(source, name)


def _require_samples(source: ByteSource, name: str) -> None:
    try:
        decode_golden(source.read(0, source.length))
    except WireError as error:
        raise MalformedFileError(f"{name}: expected a JSON object of golden samples: {error}") from error


def _require_text(source: ByteSource, name: str) -> None:
    raw = source.read(0, source.length)
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedFileError(f"{name}: expected UTF-8 text, got other bytes at {error.start}") from error
    if b"\x00" in raw:
        raise MalformedFileError(f"{name}: expected text, got NUL bytes")


def _is_old_pickle(source: ByteSource) -> bool:
    """Whether the file starts with a whole pickle of protocol 0 or 1 that names or calls something.

    Such a pickle is text. The standard disassembler, which runs nothing, checks its stack as the machine would.
    """
    listing = StringIO()
    try:
        pickletools.dis(source.read(0, min(source.length, _MAX_PICKLE_BYTES)), listing)
    except Exception:  # noqa: BLE001 - the disassembler raises what it likes on what is no pickle
        return False
    return any(word in _CALLING_OPCODES for word in listing.getvalue().split())


def _has_zip_directory(source: ByteSource) -> bool:
    size = min(source.length, _ZIP_TAIL_BYTES)
    tail = source.read(source.length - size, size)
    position = tail.rfind(_ZIP_END)
    while position >= 0:
        record = tail[position : position + 22]
        if len(record) == 22:  # noqa: PLR2004 - the record's fixed part
            directory_bytes = int.from_bytes(record[12:16], "little")
            start = source.length - size + position - directory_bytes
            if directory_bytes >= 4 and start >= 0 and source.read(start, 4) == _ZIP_DIRECTORY:  # noqa: PLR2004
                return True
        position = tail.rfind(_ZIP_END, 0, position)
    return False
