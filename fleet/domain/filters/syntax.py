"""The syntax tree of a filter and its limits. Frozen values; they know how they are written, and nothing else.

There is one way to write each tree: `written` gives it, and the parser reads it back to an equal tree.
"""

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final

MAX_CHARS: Final = 2_000
MAX_DEPTH: Final = 16
MAX_NODES: Final = 200
MAX_TEXT_CHARS: Final = 512


class Kind(Enum):
    """What a field holds, and so what can be asked of it."""

    TEXT = "text"  # ==, !=, in
    NUMBER = "a number"  # these, and <, <=, >, >=
    NAMES = "a set of names"  # "name" in field


class Source(Enum):
    """Where a field's value is found."""

    ID = "id"
    HARDWARE_CLASS = "hw"
    ATTRIBUTE = "attributes"
    CAPABILITY = "capabilities"


@dataclass(frozen=True)
class Field:
    """A property of a device. `key` names it within its source; `scale` is how many of what is stored are one of it."""

    source: Source
    kind: Kind
    spelling: str
    key: str = ""
    scale: int = 1


class Order(StrEnum):
    """How a value is compared."""

    EQUAL = "=="
    LESS = "<"
    AT_MOST = "<="
    MORE = ">"
    AT_LEAST = ">="


Value = str | int


@dataclass(frozen=True)
class Compare:
    """A field against one value of its kind; text knows `==` only."""

    field: Field
    order: Order
    value: Value


@dataclass(frozen=True)
class OneOf:
    """A field equals one of these values."""

    field: Field
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Contains:
    """A set of names has this one."""

    field: Field
    name: str


@dataclass(frozen=True)
class Known:
    """The device has a value of this field's kind."""

    field: Field


@dataclass(frozen=True)
class InGroup:
    """The device is in this group."""

    name: str


@dataclass(frozen=True)
class Not:
    """The opposite."""

    part: "Node"


@dataclass(frozen=True)
class And:
    """Every part; at least two, none of them an And."""

    parts: "tuple[Node, ...]"


@dataclass(frozen=True)
class Or:
    """Some part; at least two, none of them an Or."""

    parts: "tuple[Node, ...]"


Node = Compare | OneOf | Contains | Known | InGroup | Not | And | Or


def written(node: Node) -> str:
    """The filter's text for this tree."""
    match node:
        case And(parts):
            return " and ".join(_bracketed(part, Or) for part in parts)
        case Or(parts):
            return " or ".join(written(part) for part in parts)
        case Not(Compare(field, Order.EQUAL, value)):
            return f"{field.spelling} != {literal(value)}"
        case Not(OneOf(field, values)):
            return f"{field.spelling} not in {_listed(values)}"
        case Not(part):
            return f"not {_bracketed(part, (And, Or))}"
        case Compare(field, order, value):
            return f"{field.spelling} {order.value} {literal(value)}"
        case OneOf(field, values):
            return f"{field.spelling} in {_listed(values)}"
        case Contains(field, name):
            return f"{literal(name)} in {field.spelling}"
        case Known(field):
            return f"known({field.spelling})"
        case InGroup(name):
            return f"group({literal(name)})"


def literal(value: Value) -> str:
    """A value as it is written in a filter."""
    if isinstance(value, int):
        return str(value)
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _listed(values: tuple[Value, ...]) -> str:
    return f"({', '.join(literal(value) for value in values)})"


def _bracketed(node: Node, looser: type | tuple[type, ...]) -> str:
    return f"({written(node)})" if isinstance(node, looser) else written(node)
