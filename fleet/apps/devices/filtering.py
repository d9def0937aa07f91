"""A filter as a condition of the ORM: the domain compiles it, this module tells it what the columns are called here."""

from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import BooleanField, F
from django.db.models.expressions import Expression
from django.db.models.sql.compiler import SQLCompiler

from fleet.apps.devices.models import Device
from fleet.domain.filters import sql
from fleet.domain.filters.filter import Filter

_COLUMNS: Final = ("pk", "hardware_class", "attributes", "reported_attributes", "capabilities")
_DIALECTS: Final[dict[str, sql.Dialect]] = {"sqlite": sql.Sqlite(), "postgresql": sql.Postgresql()}


class Matches(Expression):
    """TRUE for the rows of a queryset of devices that the filter means. Joins nothing."""

    conditional = True

    def __init__(self, chosen: Filter) -> None:
        super().__init__(output_field=BooleanField())
        self._filter = chosen
        self._sources: list[Any] = [F(name) for name in _COLUMNS]

    def get_source_expressions(self) -> list[Any]:
        return self._sources

    def set_source_expressions(self, exprs: Any) -> None:
        self._sources = list(exprs)

    def as_sql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper) -> tuple[str, tuple[str | int, ...]]:
        """The condition, with the columns named as in the statement that it becomes a part of."""
        quote = connection.ops.quote_name
        members = quote(Device.groups.through._meta.db_table)  # noqa: SLF001 - documented API
        pk, hardware_class, attributes, reported, capabilities = (
            compiler.compile(source)[0] for source in self._sources
        )
        columns = sql.Columns(
            id=pk,
            hardware_class=hardware_class,
            attributes=attributes,
            reported_attributes=reported,
            capabilities=capabilities,
            members=members,
            member_device=f"{members}.{quote('device_id')}",
            member_group=f"{members}.{quote('group_id')}",
        )
        made = sql.condition(self._filter.root, columns, _DIALECTS[connection.vendor])
        return made.text, made.parameters
