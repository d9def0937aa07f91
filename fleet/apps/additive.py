"""Two statements that SQLite and PostgreSQL both speak and Django's ORM does not: insert what is new and say what that
was; add to counters that may not exist yet.

Both are safe with several writers: the unique constraint decides, inside the statement. Rows go in sorted by their key,
so that two writers take locks in the same order.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from django.db import connection
from django.db.models import Field, Model

ROWS_PER_STATEMENT: Final = 100

Key = tuple[Any, ...]
Row = TypeVar("Row")


def insert_new(rows: Sequence[Model], *, key: Sequence[str]) -> set[Key]:
    """Insert those of `rows` whose `key` fields are not stored yet; returns their keys.

    `rows` must not repeat a key. Nothing is raised for rows that exist: they are replays.
    """
    if not rows:
        return set()
    model = type(rows[0])
    fields = _stored_fields(model)
    head = f"INSERT INTO {_table(model)} ({_columns(fields)}) VALUES "  # noqa: S608 - names of our own fields
    names = [_column(model, name) for name in key]
    tail = f" ON CONFLICT ({', '.join(names)}) DO NOTHING RETURNING {', '.join(names)}"
    ordered = sorted(rows, key=lambda row: tuple(getattr(row, name) for name in key))
    inserted: set[Key] = set()
    with connection.cursor() as cursor:
        for part in _parts(ordered):
            values = [
                field.get_db_prep_save(getattr(row, field.attname), connection) for row in part for field in fields
            ]
            cursor.execute(head + _placeholders(len(part), len(fields)) + tail, values)
            inserted.update(tuple(found) for found in cursor.fetchall())
    return inserted


def add_up(
    model: type[Model],
    *,
    key: Sequence[str],
    sums: Sequence[str],
    latest: Sequence[str],
    rows: Iterable[Mapping[str, object]],
) -> None:
    """Add each row's `sums` to the stored row of the same `key`, replacing its `latest` fields; make missing ones.

    Every row holds a value for all of the model's fields that have no part in the primary key. Keys must not repeat.
    """
    ordered = sorted(rows, key=lambda row: tuple(str(row[name]) for name in key))
    fields = _stored_fields(model)
    table = _table(model)
    changes = [
        f"{_column(model, name)} = {table}.{_column(model, name)} + excluded.{_column(model, name)}" for name in sums
    ]
    changes += [f"{_column(model, name)} = excluded.{_column(model, name)}" for name in latest]
    head = f"INSERT INTO {table} ({_columns(fields)}) VALUES "  # noqa: S608 - names of our own fields
    names = ", ".join(_column(model, name) for name in key)
    tail = f" ON CONFLICT ({names}) DO UPDATE SET {', '.join(changes)}"
    with connection.cursor() as cursor:
        for part in _parts(ordered):
            values = [field.get_db_prep_save(row[field.attname], connection) for row in part for field in fields]
            cursor.execute(head + _placeholders(len(part), len(fields)) + tail, values)


def _table(model: type[Model]) -> str:
    return connection.ops.quote_name(model._meta.db_table)  # noqa: SLF001 - documented API


def _column(model: type[Model], name: str) -> str:
    return _quoted(next(field for field in _stored_fields(model) if field.attname == name))


def _columns(fields: "Iterable[Field[Any, Any]]") -> str:
    return ", ".join(_quoted(field) for field in fields)


def _quoted(field: "Field[Any, Any]") -> str:
    return connection.ops.quote_name(field.get_attname_column()[1] or field.attname)


def _stored_fields(model: type[Model]) -> "list[Field[Any, Any]]":
    """The fields that have a column, but for the primary key, which the database gives."""
    return [field for field in model._meta.concrete_fields if not field.primary_key]  # noqa: SLF001 - documented API


def _placeholders(rows: int, columns: int) -> str:
    return ", ".join([f"({', '.join(['%s'] * columns)})"] * rows)


def _parts(rows: Sequence[Row]) -> Iterable[Sequence[Row]]:
    for start in range(0, len(rows), ROWS_PER_STATEMENT):
        yield rows[start : start + ROWS_PER_STATEMENT]
