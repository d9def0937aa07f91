"""The manifest of a variant's bundle: the one signed list of its files.

The manifest's canonical bytes are the TUF target; its sha256 is the *digest* that devices attest and that names a slot.
Every file of the bundle is a content-addressed blob listed here, so a file that is not listed does not exist and a
listed file cannot be swapped. This module describes and checks; it neither reads files nor verifies signatures.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from device_client.wire import canonical, limits
from device_client.wire.errors import MalformedMessageError
from device_client.wire.fields import Fields, decode_object
from device_client.wire.names import VariantName, parse_file_name, parse_model, parse_sha256, parse_version

MANIFEST_VERSION: Final = 1
MAX_DIMENSIONS: Final = 16


class FileRole(str, Enum):
    """What a file of a bundle is for."""

    WEIGHTS = "weights"
    GOLDEN = "golden"
    LABELS = "labels"
    TOKENIZER = "tokenizer"
    PARAMETERS = "parameters"
    OTHER = "other"


@dataclass(frozen=True)
class BundleFile:
    """One file: its name inside the slot, its role, and the content that it must have."""

    name: str
    role: FileRole
    sha256: str
    length: int


@dataclass(frozen=True)
class Tensor:
    """One named input or output. A dimension of None may have any size."""

    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Contract:
    """What the application and the model agree on."""

    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    outputs: Mapping[str, Tensor] = field(default_factory=dict)
    labels_sha256: str | None = None


@dataclass(frozen=True)
class Requirements:
    """What a device must have before this variant is offered to it. Zero means: no requirement."""

    opset: int = 0
    ir_version: int = 0
    ram_bytes: int = 0
    disk_bytes: int = 0


@dataclass(frozen=True)
class Manifest:
    """A variant's bundle. Build it from parts in a pipeline, or from bytes with `parse`."""

    model: str
    version: str
    variant: VariantName
    format: str
    files: tuple[BundleFile, ...]
    contract: Contract = field(default_factory=Contract)
    requirements: Requirements = field(default_factory=Requirements)

    def __post_init__(self) -> None:
        names = [file.name for file in self.files]
        weights = [file for file in self.files if file.role is FileRole.WEIGHTS]
        if len(weights) != 1 or len(set(names)) != len(names) or len(names) > limits.MAX_FILES_PER_BUNDLE:
            raise MalformedMessageError(
                f"expected exactly one weights file and at most {limits.MAX_FILES_PER_BUNDLE} unique names, got {names}"
            )

    @property
    def weights(self) -> BundleFile:
        """The file that deltas are made for."""
        return next(file for file in self.files if file.role is FileRole.WEIGHTS)

    def file_of_role(self, role: FileRole) -> BundleFile | None:
        """The first file of a role, or None."""
        return next((file for file in self.files if file.role is role), None)

    @property
    def content_bytes(self) -> int:
        """The bytes of all files together."""
        return sum(file.length for file in self.files)

    def encode(self) -> bytes:
        """Canonical bytes: the TUF target."""
        return canonical.encode(
            {
                "v": MANIFEST_VERSION,
                "model": self.model,
                "version": self.version,
                "variant": self.variant.slug,
                "format": self.format,
                "files": [
                    {"name": file.name, "role": file.role.value, "sha256": file.sha256, "length": file.length}
                    for file in self.files
                ],
                "contract": {
                    "inputs": _encode_tensors(self.contract.inputs),
                    "outputs": _encode_tensors(self.contract.outputs),
                    "labels_sha256": self.contract.labels_sha256,
                },
                "requirements": {
                    "opset": self.requirements.opset,
                    "ir_version": self.requirements.ir_version,
                    "ram_bytes": self.requirements.ram_bytes,
                    "disk_bytes": self.requirements.disk_bytes,
                },
            }
        )

    @property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of the canonical bytes: the slot's name and what a device attests."""
        return hashlib.sha256(self.encode()).hexdigest()

    @classmethod
    def parse(cls, payload: bytes) -> "Manifest":
        """Build from bytes; raises `WireError`. The bytes must be canonical, so that one manifest has one digest."""
        fields = decode_object(payload, max_bytes=limits.MAX_MANIFEST_BYTES)
        fields.require_version(MANIFEST_VERSION)
        manifest = cls(
            model=fields.name("model", parse_model),
            version=fields.name("version", parse_version),
            variant=fields.name("variant", VariantName.parse),
            format=fields.text("format", max_chars=32),
            files=tuple(_file(item) for item in fields.children("files", max_items=limits.MAX_FILES_PER_BUNDLE)),
            contract=_contract(fields.child("contract")),
            requirements=_requirements(fields.child("requirements")),
        )
        if manifest.encode() != payload:
            raise MalformedMessageError(
                "expected a manifest in canonical form with known fields only, got another form"
            )
        return manifest


def parse_contract(value: object) -> Contract:
    """Read a contract as it stands in a manifest, a push description or a check message."""
    return _contract(Fields.of(value, "contract"))


def encode_contract(contract: Contract) -> dict[str, object]:
    """The JSON form of a contract."""
    return {
        "inputs": _encode_tensors(contract.inputs),
        "outputs": _encode_tensors(contract.outputs),
        "labels_sha256": contract.labels_sha256,
    }


def _file(fields: Fields) -> BundleFile:
    role = fields.text("role", max_chars=32)
    if role not in FileRole._value2member_map_:
        raise MalformedMessageError(f"expected a file role of {[item.value for item in FileRole]}, got {role!r}")
    return BundleFile(
        name=fields.name("name", parse_file_name),
        role=FileRole(role),
        sha256=fields.name("sha256", parse_sha256),
        length=fields.integer("length"),
    )


def _contract(fields: Fields) -> Contract:
    labels = fields.name("labels_sha256", parse_sha256) if fields.has("labels_sha256") else None
    return Contract(_tensors(fields.raw("inputs"), "inputs"), _tensors(fields.raw("outputs"), "outputs"), labels)


def _tensors(value: object, where: str) -> dict[str, Tensor]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > limits.MAX_FILES_PER_BUNDLE:
        raise MalformedMessageError(f"contract.{where}: expected an object of tensors, got {type(value).__name__}")
    return {
        str(name)[: limits.MAX_TEXT_CHARS]: _tensor(item, f"contract.{where}.{name}") for name, item in value.items()
    }


def _tensor(value: object, where: str) -> Tensor:
    """`["float32", [1, 64]]`; null in the shape means any size."""
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], list):  # noqa: PLR2004
        dtype, shape = value
        sizes_hold = all(size is None or (type(size) is int and size >= 0) for size in shape)
        if len(dtype) <= 32 and len(shape) <= MAX_DIMENSIONS and sizes_hold:  # noqa: PLR2004
            return Tensor(dtype, tuple(shape))
    raise MalformedMessageError(f'{where}: expected ["dtype", [sizes or null]], got {value!r:.80}')


def _encode_tensors(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    return {name: [tensor.dtype, list(tensor.shape)] for name, tensor in tensors.items()}


def _requirements(fields: Fields) -> Requirements:
    return Requirements(
        opset=fields.integer("opset", default=0),
        ir_version=fields.integer("ir_version", default=0),
        ram_bytes=fields.integer("ram_bytes", default=0),
        disk_bytes=fields.integer("disk_bytes", default=0),
    )
