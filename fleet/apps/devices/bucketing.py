"""Buckets in SQL: the twin of `device_client.wire.bucketing.bucket`, so that a fleet is counted where its rows are.

PostgreSQL computes the hash itself; SQLite calls the wire's own function, which is made known to the connection that
compiles the statement. The vectors of the wire contract are tested on both.
"""

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import F, IntegerField
from django.db.models.expressions import Expression
from django.db.models.sql.compiler import SQLCompiler

from device_client.wire.bucketing import BUCKETS, bucket

Compiled = tuple[str, tuple[str | int, ...]]

# With u the first 64 bits of the hash and h, l their halves: u * BUCKETS >> 64 is (h * BUCKETS + (l * BUCKETS >> 32)) >> 32,
# of which every part fits into 64 signed bits.
_HASH: Final = "sha256(convert_to('v1:' || %s::text || ':' || {id}, 'UTF8'))"
_HALF: Final = "('x' || encode(substring({hash} from {start} for 4), 'hex'))::bit(32)::bigint"
_SQLITE_FUNCTION: Final = "modelfleet_segment"


class Segment(Expression):
    """How many of `edges` are at most the bucket of the row's device under `seed`. Edges are in rising order.

    With the edges 1 to BUCKETS - 1 this is the bucket itself; with the ends of a plan's ranges it says which ranges the
    device is in.
    """

    def __init__(self, seed: str, edges: Sequence[int]) -> None:
        super().__init__(output_field=IntegerField())
        self._seed = seed
        self._edges = tuple(edges)
        self._sources: list[Any] = [F("pk")]

    def get_source_expressions(self) -> list[Any]:
        return self._sources

    def set_source_expressions(self, exprs: Any) -> None:
        self._sources = list(exprs)

    def as_sql(self, compiler: SQLCompiler, _connection: BaseDatabaseWrapper) -> Compiled:
        """For PostgreSQL 11 and later."""
        device_id = compiler.compile(self._sources[0])[0]
        hashed = _HASH.format(id=device_id)
        high, low = (_HALF.format(hash=hashed, start=start) for start in (1, 5))
        place = f"(({high} * {BUCKETS} + (({low} * {BUCKETS}) >> 32)) >> 32)"
        edges = f"ARRAY[{', '.join(['%s'] * len(self._edges))}]::bigint[]"
        return f"width_bucket({place}, {edges})", (self._seed, self._seed, *self._edges)

    def as_sqlite(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper) -> Compiled:
        """The wire's function, called by SQLite."""
        connection.ensure_connection()
        connection.connection.create_function(_SQLITE_FUNCTION, 3, _segment, deterministic=True)
        device_id = compiler.compile(self._sources[0])[0]
        edges = ",".join(str(edge) for edge in self._edges)
        return f"{_SQLITE_FUNCTION}(%s, {device_id}, %s)", (self._seed, edges)


def _segment(seed: str, device_id: str, edges: str) -> int:
    return bisect_right(_numbers(edges), bucket(seed, device_id))


@lru_cache(maxsize=8)
def _numbers(edges: str) -> tuple[int, ...]:
    return tuple(int(edge) for edge in edges.split(",")) if edges else ()
