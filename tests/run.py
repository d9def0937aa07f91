"""`make test`: sets up what the tests need, runs every tier, and ends with one line of counts.

    python -m tests.run [FOLDER ...] [-- PYTEST ARGUMENTS]

Folders of tests/ pick some tiers; without any, all run. As root on Debian it installs what is missing; otherwise it
says what will be skipped and how to get it. With CI=true nothing may be skipped: what is missing is a failure, and so is
a skipped test or a tier without tests. Reports of each tier go to var/tests/.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.toolchain import services

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
REPORTS = ROOT / "var" / "tests"
WORKERS = "2"
TIER_LIMIT_S = 1500
NO_TESTS_COLLECTED = 5
# These start processes, brokers and browsers, and have the machine for themselves.
ALONE = ("ui", "e2e", "bench")
# Its files wait most of the time, and go side by side: homes, databases, brokers and ports are each file's own.
SIDE_BY_SIDE = ("e2e",)


@dataclass(frozen=True)
class Tier:
    """One run of pytest."""

    name: str
    folders: tuple[str, ...]
    parallel: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What became of a tier. `failed` counts errors in fixtures too, and 1 for a run that broke down."""

    tier: Tier
    passed: int
    failed: int
    skipped: int
    took_s: float
    remark: str = ""


def plan(folders: Sequence[str]) -> list[Tier]:
    """The runs for these folders of tests/: server twice, once per database; what starts processes by itself and last."""
    together = tuple(name for name in folders if name != "server" and name not in ALONE)
    tiers = [Tier("fast", together)] if together else []
    if "server" in folders:
        tiers += [
            Tier(f"server-{database}", ("server",), environment={"MODELFLEET_TEST_DB": database})
            for database in ("sqlite", "postgres")
        ]
    return tiers + [Tier(name, (name,), parallel=name in SIDE_BY_SIDE) for name in ALONE if name in folders]


def present_folders() -> list[str]:
    """The folders of tests/ that have tests."""
    return sorted(path.name for path in TESTS.iterdir() if path.is_dir() and any(path.rglob("test_*.py")))


def missing_tools(folders: Sequence[str]) -> list[str]:
    """Get what is missing where that is possible; returns one sentence for each thing that still is."""
    missing = []
    if {"ui", "e2e"} & set(folders) and services.find_chromium() is None:
        _apt_install("chromium", "fonts-dejavu-core")
        if services.find_chromium() is None:
            missing.append(f"no Chromium, so the tests of the pages cannot run: {services.CHROMIUM_HINT}")
    return missing


def _apt_install(*packages: str) -> None:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    print(f"tests: installing Debian packages: {' '.join(packages)}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *packages]):
        ran = subprocess.run(["apt-get", *command], env=environment, stdout=subprocess.DEVNULL, check=False)
        if ran.returncode:
            print(f"tests: `apt-get {' '.join(command)}` failed", flush=True)
            return


def run(tier: Tier, extra: Sequence[str]) -> Outcome:
    """Run pytest for one tier, its output going straight to the terminal."""
    report = REPORTS / f"{tier.name}.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", "--durations=5", "--durations-min=5"]
    if tier.parallel:
        command += ["-n", WORKERS, "--dist", "loadfile"]
    command += [*(f"tests/{folder}" for folder in tier.folders), *extra]
    print(f"\n=== {tier.name}: {' '.join(tier.folders)}", flush=True)
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **tier.environment}, start_new_session=True)
    remark = ""
    try:
        code = process.wait(TIER_LIMIT_S)
    except subprocess.TimeoutExpired:
        remark, code = f"stopped after {TIER_LIMIT_S} s", -1
    finally:
        # After a normal end this reaches nobody; after a time-out or Ctrl-C it stops the workers too.
        _stop_group(process)
    took_s = time.monotonic() - started
    passed, failed, skipped = _counts(report)
    if code == NO_TESTS_COLLECTED:
        remark = "no tests collected"
        failed += _in_ci()
    elif code != 0 and failed == 0:
        remark, failed = remark or f"pytest ended with {code}", 1
    return Outcome(tier, passed, failed, skipped, took_s, remark)


def _stop_group(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _counts(report: Path) -> tuple[int, int, int]:
    """Passed, failed (with errors) and skipped, from pytest's JUnit report; zeros when there is none."""
    if not report.exists():
        return 0, 0, 0
    # Written by the pytest that has just run, so it is no stranger's XML.
    suites = ET.parse(report).getroot().iter("testsuite")  # noqa: S314
    total = failed = skipped = 0
    for suite in suites:
        total += int(suite.get("tests", 0))
        failed += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped += int(suite.get("skipped", 0))
    return max(0, total - failed - skipped), failed, skipped


def _in_ci() -> bool:
    return os.environ.get("CI", "").lower() in {"1", "true"}


def main(arguments: Sequence[str]) -> int:
    """Run the chosen tiers; 0 when every test passed (and, in CI, none was skipped)."""
    split = arguments.index("--") if "--" in arguments else len(arguments)
    wanted, extra = list(arguments[:split]), list(arguments[split + 1 :])
    present = present_folders()
    if unknown := set(wanted) - set(present):
        print(f"tests: no such folder: {', '.join(sorted(unknown))}; there are {', '.join(present)}")
        return 2
    folders = [name for name in present if not wanted or name in wanted]
    try:
        REPORTS.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"tests: cannot write in {REPORTS}: {error.strerror}")
        return 1
    missing = missing_tools(folders)
    for sentence in missing:
        print(f"tests: {sentence}", flush=True)
    if missing and _in_ci():
        print(f"0 passed, {len(missing)} failed")
        return 1
    outcomes = [run(tier, extra) for tier in plan(folders)]
    print("\ntier             passed  failed  skipped  seconds")
    for outcome in outcomes:
        print(
            f"{outcome.tier.name:<16} {outcome.passed:>6}  {outcome.failed:>6}  {outcome.skipped:>7}  {outcome.took_s:>7.0f}"
            f"  {outcome.remark}".rstrip()
        )
    for sentence in missing:
        print(f"SKIPPED: {sentence}")
    failed = sum(outcome.failed for outcome in outcomes)
    print(f"{sum(outcome.passed for outcome in outcomes)} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
