"""What is to be released, as files on this machine: a directory with `modelfleet.json`, or one model file.

A variant's bundle is every file in its directory, hidden ones aside: what is not meant for devices must not lie there.
Weights are inspected with the server's own readers, so that a file it would refuse is refused before it is uploaded.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from device_client.wire.bundles import BundleFile, Contract, FileRole, Manifest, Requirements, Tensor, parse_contract
from device_client.wire.errors import WireError
from device_client.wire.names import VariantName, parse_file_name
from fleet.domain.errors import ModelfleetError
from fleet.domain.formats import PRECISION_DTYPES, Format
from fleet.domain.inspection import ByteSource, Inspection, TensorInfo, inspect_weights, require_agreement
from fleet.entrypoints.cli.errors import CommandError
from fleet.entrypoints.cli.uploads import Blob

DESCRIPTION: Final = "modelfleet.json"
READ_BYTES: Final = 1024 * 1024
RUNTIMES: Final[Mapping[str, str]] = {
    Format.ONNX: "onnx",
    Format.TFLITE: "tflite",
    Format.GGUF: "llama",
    Format.SAFETENSORS: "safetensors",
    Format.OPENVINO: "openvino",
}
UNNAMED_PRECISION: Final = "mixed"
ANY_HARDWARE: Final = "any"
ROLES: Final[Mapping[str, FileRole]] = {
    "golden.json": FileRole.GOLDEN,
    "labels.txt": FileRole.LABELS,
    "tokenizer.json": FileRole.TOKENIZER,
    "parameters.json": FileRole.PARAMETERS,
}


@dataclass(frozen=True)
class LocalFile:
    """A file of a bundle and where its bytes are."""

    entry: BundleFile
    path: Path

    @property
    def blob(self) -> Blob:
        """What to upload."""
        return Blob(self.path, self.entry.sha256, self.entry.length)


@dataclass(frozen=True)
class LocalVariant:
    """One variant of what is released: everything of its manifest but the model's name and the version."""

    name: VariantName
    format: str
    files: tuple[LocalFile, ...]
    contract: Contract
    requirements: Requirements

    def manifest(self, model: str, version: str) -> Manifest:
        """The manifest to sign. Raises CommandError if the parts make none."""
        try:
            return Manifest(
                model=model,
                version=version,
                variant=self.name,
                format=self.format,
                files=tuple(file.entry for file in self.files),
                contract=self.contract,
                requirements=self.requirements,
            )
        except WireError as error:
            raise CommandError("bundle_malformed", f"variant {self.name.slug}: {error}") from error


@dataclass(frozen=True)
class Release:
    """All variants of one version, and notes that the description carries."""

    variants: tuple[LocalVariant, ...]
    notes: str = ""
    metadata: Mapping[str, Any] | None = None


def read_release(directory: Path) -> Release:
    """Read a directory with `modelfleet.json`. Hashes every file. Raises CommandError."""
    path = directory / DESCRIPTION
    description = _description(path)
    contract = _contract(description.get("contract"), path)
    variants = description.get("variants")
    if not isinstance(variants, list) or not variants:
        raise CommandError("description_malformed", f"{path}: expected a list of variants, got {variants!r:.60}")
    read = tuple(_variant(directory, item, contract, description.get("labels"), path) for item in variants)
    slugs = [variant.name.slug for variant in read]
    if len(set(slugs)) != len(slugs):
        raise CommandError("description_malformed", f"{path}: expected different variants, got {slugs}")
    metadata = description.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise CommandError("description_malformed", f"{path}: metadata: expected an object, got {metadata!r:.60}")
    return Release(read, str(description.get("notes", "")), metadata)


def read_file(path: Path, role: FileRole) -> LocalFile:
    """Hash one file. Raises CommandError."""
    digest = hashlib.sha256()
    length = 0
    try:
        name = parse_file_name(path.name)
        with path.open("rb") as file:
            while chunk := file.read(READ_BYTES):
                digest.update(chunk)
                length += len(chunk)
    except OSError as error:
        raise CommandError("file_unreadable", f"cannot read {path}: {error.strerror}") from error
    except WireError as error:
        raise CommandError("file_name", f"{path}: {error}") from error
    if not length:
        raise CommandError("file_empty", f"{path}: expected content, got an empty file")
    return LocalFile(BundleFile(name, role, digest.hexdigest(), length), path)


def read_single(weights: Path, *, hardware: str, companions: Mapping[FileRole, Path]) -> Release:
    """One model file without a description: what it is, it says itself. Raises CommandError."""
    file = read_file(weights, FileRole.WEIGHTS)
    found = inspect_file(file)
    files = (file, *(read_file(path, role) for role, path in companions.items()))
    try:
        name = VariantName(RUNTIMES[found.format], _precision(found), hardware)
    except WireError as error:
        raise CommandError("variant_malformed", str(error)) from error
    return Release((_completed(name, files, Contract(), Requirements(), found),))


def inspect_file(weights: LocalFile) -> Inspection:
    """What a file of weights says of itself, read as the server will. Raises CommandError."""
    try:
        with weights.path.open("rb") as file:
            descriptor = file.fileno()
            source = ByteSource(weights.entry.length, lambda offset, size: os.pread(descriptor, size, offset))
            return inspect_weights(source, weights.path.name)
    except OSError as error:
        raise CommandError("file_unreadable", f"cannot read {weights.path}: {error.strerror}") from error
    except ModelfleetError as error:
        raise CommandError(error.code, error.message) from error


def _precision(found: Inspection) -> str:
    """The precision's name in a variant: that of the dtype which most weights have."""
    for precision, dtypes in PRECISION_DTYPES.items():
        if found.dominant_dtype in dtypes:
            return precision
    return UNNAMED_PRECISION


def _completed(
    name: VariantName, files: tuple[LocalFile, ...], contract: Contract, asked: Requirements, found: Inspection
) -> LocalVariant:
    """A variant whose contract and requirements say what the file itself says, where the description says nothing."""
    labels = [file.entry.sha256 for file in files if file.entry.role is FileRole.LABELS]
    return LocalVariant(
        name=name,
        format=found.format,
        files=files,
        contract=Contract(
            contract.inputs or _tensors(found.inputs),
            contract.outputs or _tensors(found.outputs),
            labels[0] if labels else contract.labels_sha256,
        ),
        requirements=Requirements(
            opset=asked.opset or found.opset,
            ir_version=asked.ir_version or found.ir_version,
            ram_bytes=asked.ram_bytes,
            disk_bytes=asked.disk_bytes or sum(file.entry.length for file in files),
        ),
    )


def _tensors(found: Mapping[str, TensorInfo]) -> dict[str, Tensor]:
    return {name: Tensor(item.dtype, item.shape) for name, item in found.items()}


def _description(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CommandError(
            "description_missing", f"{path.parent}: expected a directory with {DESCRIPTION}, or one model file"
        ) from None
    except OSError as error:
        raise CommandError("file_unreadable", f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CommandError("description_malformed", f"{path}: expected JSON, {error}") from error
    if not isinstance(document, dict):
        raise CommandError("description_malformed", f"{path}: expected an object, got {type(document).__name__}")
    return document


def _contract(value: object, path: Path) -> Contract:
    try:
        return parse_contract({} if value is None else value)
    except WireError as error:
        raise CommandError("description_malformed", f"{path}: {error}") from error


def _variant(base: Path, item: Any, contract: Contract, labels: object, path: Path) -> LocalVariant:
    if not isinstance(item, dict):
        raise CommandError("description_malformed", f"{path}: expected variants to be objects, got {item!r:.60}")
    try:
        name = VariantName(str(item["runtime"]), str(item["precision"]), str(item.get("hardware", ANY_HARDWARE)))
        weights = parse_file_name(item["weights"])
        directory = base / str(item.get("dir", "."))
    except KeyError as error:
        raise CommandError("description_malformed", f"{path}: a variant lacks {error.args[0]!r}") from error
    except WireError as error:
        raise CommandError("description_malformed", f"{path}: {error}") from error
    roles = dict(ROLES)
    if isinstance(labels, str):
        roles[labels] = FileRole.LABELS
    roles |= _named_roles(item.get("roles", {}), path)
    roles[weights] = FileRole.WEIGHTS
    if not directory.resolve().is_relative_to(base.resolve()):
        raise CommandError(
            "description_malformed", f"{path}: dir: expected a directory inside {base}, got {item['dir']!r}"
        )
    if not (directory / weights).is_file():
        raise CommandError("file_unreadable", f"cannot read {directory / weights}: no such file")
    files = _bundle(directory, roles)
    return _checked(name, files, contract, _requirements(item.get("requirements"), path), item.get("format"))


def _checked(
    name: VariantName, files: tuple[LocalFile, ...], contract: Contract, asked: Requirements, declared: object
) -> LocalVariant:
    """Refuse here what the server would refuse after the upload."""
    found = inspect_file(next(file for file in files if file.entry.role is FileRole.WEIGHTS))
    variant = _completed(name, files, contract, asked, found)
    if isinstance(declared, str):
        variant = replace(variant, format=declared)
    try:
        require_agreement(found, variant.manifest("any.any", "0"))
    except ModelfleetError as error:
        raise CommandError(error.code, f"variant {name.slug}: {error.message}") from error
    return variant


def _named_roles(value: object, path: Path) -> dict[str, FileRole]:
    """`"roles": {"vocabulary.txt": "tokenizer"}` of a variant."""
    if not isinstance(value, dict):
        raise CommandError("description_malformed", f"{path}: roles: expected an object, got {value!r:.60}")
    try:
        return {str(name): FileRole(role) for name, role in value.items()}
    except ValueError as error:
        known = [role.value for role in FileRole]
        raise CommandError(
            "description_malformed", f"{path}: roles: expected {{file: role of {known}}}, {error}"
        ) from error


def _bundle(directory: Path, roles: Mapping[str, FileRole]) -> tuple[LocalFile, ...]:
    try:
        paths = sorted(path for path in directory.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise CommandError("file_unreadable", f"cannot read {directory}: {error.strerror}") from error
    paths = [path for path in paths if path.name != DESCRIPTION]
    for path in paths:
        if not path.is_file():
            raise CommandError("bundle_malformed", f"{path}: expected plain files in a variant's directory")
    return tuple(read_file(path, roles.get(path.name, FileRole.OTHER)) for path in paths)


def _requirements(value: object, path: Path) -> Requirements:
    known = Requirements.__dataclass_fields__
    if value is None:
        return Requirements()
    if not isinstance(value, dict) or not all(
        key in known and type(number) is int and number >= 0 for key, number in value.items()
    ):
        raise CommandError(
            "description_malformed", f"{path}: requirements: expected whole numbers of {list(known)}, got {value!r:.80}"
        )
    return Requirements(**value)
