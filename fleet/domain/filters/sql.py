"""A filter as a condition of SQL with parameters, for the JSON columns of SQLite and of PostgreSQL.

The text is made of constants and of the column names that the caller's `Columns` gives; whatever a person wrote is a
parameter. The condition is TRUE or FALSE for every row, never NULL, so that `NOT` means what it says.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from device_client.wire.limits import MAX_COUNT
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
)

Parameter = str | int


@dataclass(frozen=True)
class Columns:
    """How the caller's statement names what filters ask about: SQL text that the caller, never a person, wrote.

    `attributes` come before `reported_attributes`: what was given at enrolment is not the device's to change.
    `members` is a table of (`member_device`, `member_group`) pairs.
    """

    id: str
    hardware_class: str
    attributes: str
    reported_attributes: str
    capabilities: str
    members: str
    member_device: str
    member_group: str


@dataclass(frozen=True)
class Condition:
    """SQL with `%s` for each parameter, in order."""

    text: str
    parameters: tuple[Parameter, ...] = ()


class Dialect(Protocol):
    """Reads JSON. Each method gives the value, or NULL where there is none of this type; `key` is checked by `fields`."""

    def attribute(self, assigned: str, reported: str, key: str) -> Condition:
        """The text of an attribute: the assigned one where there is one, whatever its type."""
        ...

    def text(self, column: str, key: str) -> Condition:
        """A text that is not empty."""
        ...

    def number(self, column: str, key: str) -> Condition:
        """A whole number from 1 to `MAX_COUNT`."""
        ...

    def contains(self, column: str, key: str, name: str) -> Condition:
        """Whether a list has this text, or an object this key; never NULL."""
        ...


class Sqlite:
    """The JSON functions of SQLite 3.31 and later."""

    def attribute(self, assigned: str, reported: str, key: str) -> Condition:
        path = f'$."{key}"'
        return Condition(
            f"CASE WHEN JSON_TYPE({assigned}, %s) IS NOT NULL THEN {_SQLITE_TEXT.format(column=assigned)}"
            f" ELSE {_SQLITE_TEXT.format(column=reported)} END",
            (path,) * 5,
        )

    def text(self, column: str, key: str) -> Condition:
        return Condition(f"NULLIF({_SQLITE_TEXT.format(column=column)}, '')", (f"$.{key}",) * 2)

    def number(self, column: str, key: str) -> Condition:
        path = f"$.{key}"
        return Condition(
            f"CASE WHEN JSON_TYPE({column}, %s) = 'integer' AND JSON_EXTRACT({column}, %s) BETWEEN 1 AND {MAX_COUNT}"
            f" THEN JSON_EXTRACT({column}, %s) END",
            (path,) * 3,
        )

    def contains(self, column: str, key: str, name: str) -> Condition:
        path = f"$.{key}"
        # What a person wrote is a parameter; the column's name is the caller's.
        rows = f"SELECT 1 FROM JSON_EACH({column}, %s) AS item"  # noqa: S608
        chosen = "WHEN 'array' THEN item.type = 'text' AND item.value = %s WHEN 'object' THEN item.key = %s ELSE FALSE"
        return Condition(
            f"EXISTS ({rows} WHERE CASE JSON_TYPE({column}, %s) {chosen} END)",
            (path, path, name, name),
        )


_SQLITE_TEXT: Final = "CASE JSON_TYPE({column}, %s) WHEN 'text' THEN JSON_EXTRACT({column}, %s) END"


class Postgresql:
    """The functions of jsonb. A number that was written with a fraction or an exponent keeps it, and is not whole."""

    def attribute(self, assigned: str, reported: str, key: str) -> Condition:
        return Condition(
            f"CASE WHEN JSONB_EXISTS({assigned}, %s) THEN {_POSTGRESQL_TEXT.format(column=assigned)}"
            f" ELSE {_POSTGRESQL_TEXT.format(column=reported)} END",
            (key,) * 5,
        )

    def text(self, column: str, key: str) -> Condition:
        return Condition(f"NULLIF({_POSTGRESQL_TEXT.format(column=column)}, '')", (key,) * 2)

    def number(self, column: str, key: str) -> Condition:
        return Condition(
            f"CASE WHEN JSONB_TYPEOF({column} -> %s::text) = 'number'"
            f" AND {column} ->> %s::text ~ '^[1-9][0-9]{{0,15}}$' THEN"
            f" CASE WHEN ({column} ->> %s::text)::bigint <= {MAX_COUNT} THEN ({column} ->> %s::text)::bigint END END",
            (key,) * 4,
        )

    def contains(self, column: str, key: str, name: str) -> Condition:
        return Condition(
            f"COALESCE(JSONB_TYPEOF({column} -> %s::text) IN ('array', 'object')"
            f" AND JSONB_EXISTS({column} -> %s::text, %s::text), FALSE)",
            (key, key, name),
        )


_POSTGRESQL_TEXT: Final = "CASE WHEN JSONB_TYPEOF({column} -> %s::text) = 'string' THEN {column} ->> %s::text END"
_SIGNS: Final = {
    Order.EQUAL: "=",
    Order.LESS: "<",
    Order.AT_MOST: "<=",
    Order.MORE: ">",
    Order.AT_LEAST: ">=",
}


def condition(node: Node, columns: Columns, dialect: Dialect) -> Condition:
    """Which rows are meant."""
    match node:
        case And(parts):
            return _joined(" AND ", (condition(part, columns, dialect) for part in parts))
        case Or(parts):
            return _joined(" OR ", (condition(part, columns, dialect) for part in parts))
        case Not(part):
            inner = condition(part, columns, dialect)
            return Condition(f"(NOT {inner.text})", inner.parameters)
        case InGroup(name):
            same = f"{columns.member_device} = {columns.id} AND {columns.member_group} = %s"
            return Condition(f"EXISTS (SELECT 1 FROM {columns.members} WHERE {same})", (name,))  # noqa: S608
        case Known(field):
            read = _read(field, columns, dialect)
            return Condition(f"({read.text} IS NOT NULL)", read.parameters)
        case Contains(field, name):
            return dialect.contains(columns.capabilities, field.key, name)
        case Compare(field, order, value):
            read = _read(field, columns, dialect)
            return _asked(field, read, f"{_SIGNS[order]} %s", [_scaled(field, value)])
        case OneOf(field, values):
            read = _read(field, columns, dialect)
            places = ", ".join(["%s"] * len(values))
            return _asked(field, read, f"IN ({places})", [_scaled(field, value) for value in values])


def _asked(field: Field, read: Condition, question: str, wanted: Sequence[Parameter]) -> Condition:
    """A question about a value that may be NULL; one that cannot be keeps the shape that an index serves."""
    text = f"{read.text} {question}"
    never_null = field.source in (Source.ID, Source.HARDWARE_CLASS)
    return Condition(text if never_null else f"COALESCE({text}, FALSE)", (*read.parameters, *wanted))


def _joined(word: str, parts: Iterable[Condition]) -> Condition:
    every = tuple(parts)
    return Condition(
        f"({word.join(part.text for part in every)})",
        tuple(parameter for part in every for parameter in part.parameters),
    )


def _read(field: Field, columns: Columns, dialect: Dialect) -> Condition:
    match field.source:
        case Source.ID:
            return Condition(columns.id)
        case Source.HARDWARE_CLASS:
            return Condition(columns.hardware_class)
        case Source.ATTRIBUTE:
            return dialect.attribute(columns.attributes, columns.reported_attributes, field.key)
        case Source.CAPABILITY if field.kind is Kind.NUMBER:
            return dialect.number(columns.capabilities, field.key)
        case Source.CAPABILITY:
            return dialect.text(columns.capabilities, field.key)


def _scaled(field: Field, value: Value) -> Parameter:
    """The value in the unit that is stored."""
    return value * field.scale if isinstance(value, int) else value
