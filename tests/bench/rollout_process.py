"""One fleet of the rollout benchmark, measured in this process: `python -m tests.bench.rollout_process DEVICES REPEATS`.

Prints one line of JSON. The database is the environment's, and must be empty.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import django

LONGEST_S: Final = 30.0  # an operation is repeated no longer than this, but at least three times
LEAST: Final = 3
_NAMES: Final = {"sqlite": "sqlite", "postgresql": "postgres"}
PHASE_DEVICES: Final = 20_000  # on each side, for a tick


@dataclass
class Measured:
    """What one operation took each time."""

    seconds: list[float] = field(default_factory=list)
    statements: list[int] = field(default_factory=list)
    publishes: list[int] = field(default_factory=list)

    def encode(self, database: str, devices: int, operation: str) -> dict[str, Any]:
        """A row of the results; statements and publishes are the most that were seen."""
        in_ms = sorted(1_000 * item for item in self.seconds)
        return {
            "db": database,
            "devices": devices,
            "operation": operation,
            "ms_p50": round(statistics.median(in_ms), 3),
            "ms_p95": round(in_ms[min(len(in_ms) - 1, int(0.95 * len(in_ms)))], 3),
            "sql": max(self.statements),
            "publishes": max(self.publishes),
            "n": len(in_ms),
        }


class Meter:
    """Times operations and counts their statements and publishes."""

    def __init__(self, repeats: int) -> None:
        self.measured: dict[str, Measured] = {}
        self._repeats = repeats

    @contextmanager
    def operation(self, name: str) -> Iterator[None]:
        """Measure what happens inside."""
        from django.db import connection

        from fleet.apps.outbox.models import Message

        statements = 0

        def count(execute: Callable[..., Any], *arguments: Any) -> Any:
            nonlocal statements
            statements += 1
            return execute(*arguments)

        last = Message.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
        with connection.execute_wrapper(count):
            began = time.perf_counter()
            yield
            seconds = time.perf_counter() - began
        found = self.measured.setdefault(name, Measured())
        found.seconds.append(seconds)
        found.statements.append(statements)
        found.publishes.append(Message.objects.filter(pk__gt=last).count())

    def repeat(self, turn: Callable[[], None]) -> None:
        """Take as many turns as were asked for, fewer if they take long; the first one warms up and is forgotten."""
        began = time.monotonic()
        for number in range(self._repeats + 1):
            if number > LEAST and time.monotonic() - began > LONGEST_S:
                break
            before = {name: len(item.seconds) for name, item in self.measured.items()}
            turn()
            if number == 0:
                for name in self.measured:
                    if not before.get(name):
                        self.measured[name] = Measured()


def main(devices: int, repeats: int) -> None:
    """Make the fleet, measure, print."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fleet.config.settings")
    django.setup()
    from django.core.management import call_command
    from django.db import connection

    from tests.bench import rollout_operations

    call_command("migrate", verbosity=0)
    began = time.monotonic()
    bench = rollout_operations.Operations(devices)
    seeded_s = time.monotonic() - began
    meter = Meter(repeats)
    for turn in bench.turns(meter):
        meter.repeat(turn)
    filters = bench.filters()
    rows = [item.encode(_NAMES[connection.vendor], devices, name) for name, item in meter.measured.items()]
    print(json.dumps({"devices": devices, "seeded_s": seeded_s, "filters": filters, "results": rows}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
