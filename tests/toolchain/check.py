"""`make check`: everything that can be said about the code without running the product.

Runs every step even after one has failed, shows the output of those that failed, and ends with one line of counts.
Names of steps as arguments pick some: `make check ARGS="lint types"`.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
CODE = ("fleet", "device_client", "tests", "manage.py")


@dataclass(frozen=True)
class Step:
    """One command; it holds when it exits with 0."""

    name: str
    command: Sequence[str]
    environment: dict[str, str] = field(default_factory=dict)


def steps() -> list[Step]:
    """What is checked, cheapest first."""
    python = sys.executable
    # Settings of a production server: `check --deploy` judges those, not the laptop's.
    production = {
        "MODELFLEET_PUBLIC_URL": "https://fleet.example.org",
        "MODELFLEET_ALLOWED_HOSTS": "fleet.example.org",
        "MODELFLEET_DEBUG": "0",
    }
    docs = [path for path in ("tests/architecture", "tests/docs") if any((ROOT / path).glob("test_*.py"))]
    return [
        Step("format", [str(BIN / "ruff"), "format", "--check", "--quiet", "--diff", *CODE]),
        Step("lint", [str(BIN / "ruff"), "check", *CODE]),
        Step("imports", [str(BIN / "lint-imports"), "--no-cache"]),
        Step("types", [str(BIN / "mypy"), *CODE]),
        Step("migrations", [python, "manage.py", "makemigrations", "--check", "--dry-run"]),
        Step("deploy", [python, "manage.py", "check", "--deploy", "--fail-level", "WARNING"], production),
        Step("docs", [python, "-m", "pytest", "-q", *docs]),
        Step("wheels", [python, "-m", "tests.toolchain.wheels"]),
    ]


def main(wanted: Sequence[str]) -> int:
    """Run the steps named in `wanted` (all when empty); 0 when all of them hold."""
    chosen = [step for step in steps() if not wanted or step.name in wanted]
    if unknown := set(wanted) - {step.name for step in steps()}:
        print(f"check: no such step: {', '.join(sorted(unknown))}; there are {', '.join(s.name for s in steps())}")
        return 2
    failed = 0
    with tempfile.TemporaryDirectory(prefix="mf-check-") as home:
        # No step sees the developer's own server.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MODELFLEET_")}
        for step in chosen:
            started = time.monotonic()
            ran = subprocess.run(
                step.command,
                cwd=ROOT,
                env={**kept, "MODELFLEET_HOME": home, **step.environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            took = time.monotonic() - started
            if ran.returncode:
                failed += 1
                print(ran.stdout.rstrip())
            print(f"check: {step.name:<10} {'FAILED' if ran.returncode else 'ok'} ({took:.1f} s)", flush=True)
    print(f"{len(chosen) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
