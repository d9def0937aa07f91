"""Names that cross the wire: device ids, models, versions, variants and the paths of TUF targets.

Every name that arrives from outside goes through a `parse_*` function here before it touches a path, topic or query.
"""

import re
from dataclasses import dataclass
from typing import Final

from device_client.wire.errors import MalformedNameError

DEVICE_ID: Final = re.compile(r"[a-z0-9][a-z0-9-]{2,62}")
NAMESPACE: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
MODEL: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,30}\.[a-z0-9][a-z0-9-]{0,30}")
VERSION: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,63}")
VARIANT_PART: Final = re.compile(r"[a-z0-9][a-z0-9_]{0,30}")
ANY_HARDWARE: Final = "any"
CODEC: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,30}")
FILE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
SHA256: Final = re.compile(r"[0-9a-f]{64}")
HEX_ID: Final = re.compile(r"[0-9a-f]{8,64}")


def _require(pattern: re.Pattern[str], value: object, what: str) -> str:
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        shown = repr(value)[:80]
        raise MalformedNameError(f"expected {what} matching {pattern.pattern}, got {shown}")
    return value


def parse_device_id(value: object) -> str:
    """Return `value` if it is a device id; raise `MalformedNameError` otherwise."""
    return _require(DEVICE_ID, value, "a device id")


def parse_namespace(value: object) -> str:
    """Return `value` if it is a namespace name; raise `MalformedNameError` otherwise."""
    return _require(NAMESPACE, value, "a namespace")


def parse_model(value: object) -> str:
    """Return `value` if it is `<namespace>.<name>`; raise `MalformedNameError` otherwise."""
    return _require(MODEL, value, "a model <namespace>.<name>")


def parse_version(value: object) -> str:
    """Return `value` if it is a version label; raise `MalformedNameError` otherwise."""
    return _require(VERSION, value, "a version label")


def parse_file_name(value: object) -> str:
    """Return `value` if it is one path component that is safe to create; raise `MalformedNameError` otherwise."""
    return _require(FILE_NAME, value, "a file name")


def parse_sha256(value: object) -> str:
    """Return `value` if it is a lower-case hexadecimal SHA-256; raise `MalformedNameError` otherwise."""
    return _require(SHA256, value, "a hexadecimal sha256")


@dataclass(frozen=True, order=True)
class VariantName:
    """Which build of a version: runtime (`onnx`), precision (`int8`) and hardware (`any`, `coral`, ...)."""

    runtime: str
    precision: str
    hardware: str

    def __post_init__(self) -> None:
        for part in (self.runtime, self.precision, self.hardware):
            _require(VARIANT_PART, part, "a part of a variant's name")

    @property
    def slug(self) -> str:
        """The one-word form used in file names and the UI: `onnx-int8-any`."""
        return f"{self.runtime}-{self.precision}-{self.hardware}"

    @classmethod
    def parse(cls, slug: object) -> "VariantName":
        """Parse `runtime-precision-hardware`; raise `MalformedNameError` for anything else."""
        parts = slug.split("-") if isinstance(slug, str) else []
        if len(parts) != 3:  # noqa: PLR2004 - three named parts
            raise MalformedNameError(f"expected a variant runtime-precision-hardware, got {slug!r:.80}")
        return cls(*parts)


@dataclass(frozen=True)
class ManifestPath:
    """The TUF target path of a variant's manifest: `models/<model>/<version>/<variant>.json`."""

    model: str
    version: str
    variant: VariantName

    def __str__(self) -> str:
        return f"models/{self.model}/{self.version}/{self.variant.slug}.json"

    @classmethod
    def parse(cls, path: object) -> "ManifestPath":
        """Parse a target path; raise `MalformedNameError` for any other shape, traversal included."""
        parts = path.split("/") if isinstance(path, str) else []
        if len(parts) != 4 or parts[0] != "models" or not parts[3].endswith(".json"):  # noqa: PLR2004
            raise MalformedNameError(f"expected models/<model>/<version>/<variant>.json, got {path!r:.120}")
        return cls(parse_model(parts[1]), parse_version(parts[2]), VariantName.parse(parts[3].removesuffix(".json")))


def device_target(device_id: str) -> str:
    """The zero-length director target that binds a bundle to one device."""
    return f"device/{parse_device_id(device_id)}"


def delta_target(old_sha256: str, new_sha256: str, codec: str) -> str:
    """The director target of a patch between two blobs: `deltas/<16 hex>-<16 hex>.<codec>`."""
    old, new = parse_sha256(old_sha256), parse_sha256(new_sha256)
    return f"deltas/{old[:16]}-{new[:16]}.{_require(CODEC, codec, 'a codec')}"


def hardware_part(hardware_class: str) -> str:
    """How a variant's name spells a hardware class: `onnx-fp16-jetson_orin` is for the class `jetson-orin`."""
    return hardware_class.replace("-", "_")
