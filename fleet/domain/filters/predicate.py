"""A filter asked of one device's facts. Compiled once into closures, because every check asks every rule."""

import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, Protocol

from device_client.wire.limits import MAX_COUNT
from device_client.wire.messages import Capabilities
from fleet.domain.filters.syntax import (
    And,
    Compare,
    Contains,
    Field,
    InGroup,
    Kind,
    Known,
    Node,
    Not,
    OneOf,
    Or,
    Order,
    Source,
    Value,
    literal,
    written,
)


class Described(Protocol):
    """A device as filters see it; `DeviceFacts` is one."""

    @property
    def device_id(self) -> str: ...
    @property
    def hardware_class(self) -> str: ...
    @property
    def capabilities(self) -> Capabilities: ...
    @property
    def groups(self) -> Collection[str]: ...
    @property
    def attributes(self) -> Mapping[str, str]: ...


Predicate = Callable[[Described], bool]
_Read = Callable[[Described], Value | None]

_COMPARED: Final[Mapping[Order, Callable[[int, int], bool]]] = {
    Order.EQUAL: operator.eq,
    Order.LESS: operator.lt,
    Order.AT_MOST: operator.le,
    Order.MORE: operator.gt,
    Order.AT_LEAST: operator.ge,
}


def predicate(node: Node) -> Predicate:
    """Whether a device is meant."""
    match node:
        case And(parts):
            return _every([predicate(part) for part in parts])
        case Or(parts):
            return _some([predicate(part) for part in parts])
        case Not(part):
            opposite = predicate(part)
            return lambda device: not opposite(device)
        case InGroup(name):
            return lambda device: name in device.groups
        case Known(field):
            reads = _read(field)
            return lambda device: reads(device) is not None
        case Contains(field, name):
            key = field.key
            return lambda device: name in getattr(device.capabilities, key)
        case Compare(field, order, value):
            return _comparison(field, order, value)
        case OneOf(field, values):
            reads, scaled = _read(field), frozenset(_scaled(field, value) for value in values)
            return lambda device: reads(device) in scaled


def objection(node: Node, device: Described) -> str:
    """Why a device is not meant, for people: the first part of a conjunction that does not hold, and what it found."""
    if isinstance(node, And):
        node = next((part for part in node.parts if not predicate(part)(device)), node)
    inner = node.part if isinstance(node, Not) else node
    sentence = f"{written(node)} does not hold"
    if not isinstance(inner, Compare | OneOf | Known):
        return sentence
    value = _read(inner.field)(device)
    if value is None:
        return f"{sentence}: the device has no {inner.field.spelling}"
    shown = f"{value / inner.field.scale:g}" if isinstance(value, int) and inner.field.scale > 1 else literal(value)
    return f"{sentence}: the device's is {shown}"


# Loops, because a generator for each question takes longer than the question.


def _every(parts: Sequence[Predicate]) -> Predicate:
    def holds(device: Described) -> bool:
        for part in parts:  # noqa: SIM110 - see above
            if not part(device):
                return False
        return True

    return holds


def _some(parts: Sequence[Predicate]) -> Predicate:
    def holds(device: Described) -> bool:
        for part in parts:  # noqa: SIM110 - see above
            if part(device):
                return True
        return False

    return holds


def _comparison(field: Field, order: Order, value: Value) -> Predicate:
    reads, wanted = _read(field), _scaled(field, value)
    if not isinstance(wanted, int):
        if field.source is Source.HARDWARE_CLASS:
            return lambda device: device.hardware_class == wanted
        if field.source is Source.ATTRIBUTE:  # what is no text equals none
            key = field.key
            return lambda device: device.attributes.get(key) == wanted
        return lambda device: reads(device) == wanted
    compare = _COMPARED[order]

    def holds(device: Described) -> bool:
        found = reads(device)
        return isinstance(found, int) and compare(found, wanted)

    return holds


def _scaled(field: Field, value: Value) -> Value:
    """The value in the unit that is stored."""
    return value * field.scale if isinstance(value, int) else value


def _read(field: Field) -> _Read:
    """The device's value of a field in the unit that is stored, None if it has none of this kind."""
    key = field.key
    match field.source:
        case Source.ID:
            return lambda device: device.device_id
        case Source.HARDWARE_CLASS:
            return lambda device: device.hardware_class
        case Source.ATTRIBUTE:
            return lambda device: _text(device.attributes.get(key))
        case Source.CAPABILITY if field.kind is Kind.NUMBER:
            return lambda device: _number(getattr(device.capabilities, key))
        case Source.CAPABILITY:
            return lambda device: _text(getattr(device.capabilities, key)) or None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object) -> int | None:
    """A count that is known: zero is the capabilities' word for unknown."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_COUNT else None
