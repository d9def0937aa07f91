"""The benchmark of what an operator and the conductor do to a rollout, by the size of the fleet:
`python -m tests.bench.rollout [--devices 1000,100000,1000000] [--db sqlite|postgres|both] [--json OUT]`.

Every fleet is made with bulk SQL in a new database, which a fresh process measures and which is removed afterwards. What
is asked of the product: creating (a job then does `count`), advancing, halting and reverting cost the same number of
statements and publishes whatever the fleet's size, and at most 100 ms; a tick over 20,000 treated and 20,000 control
devices takes at most a second.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.bench import rollout_assign
from tests.toolchain.postgres import start_postgres

ROOT: Final = Path(__file__).resolve().parents[2]
DATABASES: Final = ("sqlite", "postgres")
TIMEOUT_S: Final = 3_600
CONSTANT: Final = ("create", "advance", "halt", "revert")
CONSTANT_TARGET_MS: Final = 100.0
TICK_TARGET_MS: Final = 1_000.0
PAGE_TARGET_MS: Final = 150.0
ASSIGN_TARGET_PER_S: Final = 20_000


def main(words: Sequence[str]) -> int:
    """Measure, print, write; 0 when statements and publishes do not depend on the fleet's size."""
    arguments = _arguments(words)
    databases = DATABASES if arguments.db == "both" else (arguments.db,)
    results: list[dict[str, Any]] = []
    document: dict[str, Any] = {
        "results": results,
        "fleets": [],
        "assign_per_s": rollout_assign.per_second(),
        "assign_per_s_by_rules": rollout_assign.by_rules(),
    }
    for database in databases:
        for devices in arguments.devices:
            found = _measure(database, devices, arguments)
            for row in found.pop("results"):
                results.append(row)
                print(_line(row), flush=True)
            document["fleets"].append({"db": database, **found})
    document["constant"] = constant(results)
    print(f"assign: {document['assign_per_s']:,.0f} a second and core with {rollout_assign.ACTIVE_RULES} active rules")
    for miss in misses(document):
        print(f"MISSED: {miss}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0 if document["constant"] else 1


def constant(results: Sequence[dict[str, Any]]) -> bool:
    """Whether each operation costs as many statements and publishes on every fleet of one database."""
    costs: dict[tuple[str, str], set[tuple[int, int]]] = {}
    for row in results:
        if row["operation"] in CONSTANT:
            costs.setdefault((row["db"], row["operation"]), set()).add((row["sql"], row["publishes"]))
    return all(len(found) == 1 for found in costs.values())


def misses(document: dict[str, Any]) -> Iterator[str]:
    """The targets that were missed, each as a sentence."""
    for row in document["results"]:
        operation, where = row["operation"], f"{row['operation']} on {row['db']}, {row['devices']:,} devices"
        target = (
            CONSTANT_TARGET_MS
            if operation in (*CONSTANT, "dry_run", "dry_run_answer")
            else TICK_TARGET_MS
            if operation == "tick"
            else PAGE_TARGET_MS
            if operation.startswith("page")
            else None
        )
        if target is not None and row["ms_p50"] > target:
            yield f"{where}: {row['ms_p50']:,.0f} ms, at most {target:g}"
    if not document["constant"]:
        yield "statements or publishes depend on the fleet's size"
    if document["assign_per_s"] < ASSIGN_TARGET_PER_S:
        yield f"assign: {document['assign_per_s']:,.0f} calls a second, at least {ASSIGN_TARGET_PER_S:,}"


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.rollout", description=__doc__)
    parser.add_argument("--devices", type=_sizes, default=_sizes("1000,100000,1000000"), metavar="N,N")
    parser.add_argument("--db", choices=(*DATABASES, "both"), default="both")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all figures")
    parser.add_argument("--repeats", type=int, default=15, help="of each operation (default 15)")
    parser.add_argument("--scratch", type=Path, help="where databases are made (default: temporary)")
    return parser.parse_args(words)


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(int(part) for part in text.split(","))
    if not sizes or min(sizes) < 100:
        raise argparse.ArgumentTypeError("expected numbers of at least 100 devices")
    return sizes


def _measure(database: str, devices: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One fleet, in a process and a database of its own."""
    with tempfile.TemporaryDirectory(prefix="mf-bench-", dir=arguments.scratch) as home, _database(database) as url:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MODELFLEET_")}
        environment["MODELFLEET_HOME"] = home
        if url:
            environment["MODELFLEET_DATABASE_URL"] = url
        command = [sys.executable, "-m", "tests.bench.rollout_process", str(devices), str(arguments.repeats)]
        ran = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT_S, check=False
        )
    if ran.returncode:
        raise SystemExit(f"measuring {devices} devices on {database}: exit {ran.returncode}")
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


@contextmanager
def _database(name: str) -> Iterator[str]:
    """The address of a new database; empty for SQLite, which is a file in the home directory."""
    if name == "sqlite":
        yield ""
        return
    server = start_postgres()
    try:
        yield server.url
    finally:
        server.stop()


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['db']:9} {row['devices']:>9,} devices  {row['operation']:26} p50 {row['ms_p50']:10.2f} ms  "
        f"p95 {row['ms_p95']:10.2f} ms  {row['sql']:4} statements  {row['publishes']} publishes  (n={row['n']})"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
