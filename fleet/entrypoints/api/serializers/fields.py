"""A field for values whose form belongs to the domain: dataclasses, enums and datetimes as plain JSON."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers


def plain(value: object) -> object:
    """The value as JSON knows it."""
    match value:
        case Enum():
            return value.value
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case Mapping():
            return {str(plain(key)): plain(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [plain(item) for item in value]
        case _ if is_dataclass(value) and not isinstance(value, type):
            return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
        case _:
            return value


@extend_schema_field(OpenApiTypes.ANY)
class PlainField(serializers.Field[Any, Any, Any, Any]):
    """Read-only JSON of whatever the record holds; the schema cannot say what that is, so the help has to."""

    def __init__(self, *, help_text: str, **options: Any) -> None:
        super().__init__(read_only=True, help_text=help_text, **options)

    def to_representation(self, value: Any) -> Any:
        """As plain JSON."""
        return plain(value)
