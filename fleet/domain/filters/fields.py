"""Every field that a filter may name. What a device probes of itself is a closed list; attributes are the fleet's own.

A number that is zero, and a text of the capabilities that is empty, mean that the device does not know it. `*_mb` are
units of 1,048,576 bytes.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from fleet.domain.filters.syntax import Field, Kind, Source

# No quote and no backslash: attribute names become part of a JSON path in SQLite, which cannot escape them. ASCII,
# because SQLite compares the names as they are stored, and other characters may be stored as escapes.
ATTRIBUTE_NAME: Final = re.compile(r"[ !#-\[\]-~]{1,128}", re.ASCII)
_PLAIN_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*", re.ASCII)
_MB: Final = 1_048_576

ID: Final = Field(Source.ID, Kind.TEXT, "id")
HARDWARE_CLASS: Final = Field(Source.HARDWARE_CLASS, Kind.TEXT, "hw")


def _capability(name: str, kind: Kind, key: str = "", scale: int = 1) -> tuple[str, Field]:
    return name, Field(Source.CAPABILITY, kind, f"capabilities.{name}", key or name, scale)


CAPABILITIES: Final[Mapping[str, Field]] = MappingProxyType(
    dict(
        (
            _capability("accelerators", Kind.NAMES),
            _capability("arch", Kind.TEXT),
            _capability("client_version", Kind.TEXT),
            _capability("codecs", Kind.NAMES),
            _capability("disk_bytes", Kind.NUMBER),
            _capability("disk_mb", Kind.NUMBER, "disk_bytes", _MB),
            _capability("max_ir_version", Kind.NUMBER),
            _capability("max_opset", Kind.NUMBER),
            _capability("precisions", Kind.NAMES),
            _capability("ram_bytes", Kind.NUMBER),
            _capability("ram_mb", Kind.NUMBER, "ram_bytes", _MB),
            _capability("runtimes", Kind.NAMES),
        )
    )
)


def attribute(name: str) -> Field:
    """The field of one attribute; `name` matches `ATTRIBUTE_NAME`."""
    spelling = f"attributes.{name}" if _PLAIN_NAME.fullmatch(name) else f'attributes["{name}"]'
    return Field(Source.ATTRIBUTE, Kind.TEXT, spelling, name)
