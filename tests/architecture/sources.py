"""The project's own source files, parsed once, for the tests that read the code."""

import ast
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PURE_PACKAGES = ("fleet/domain", "fleet/ports", "device_client/wire", "device_client/core")


def python_files(*folders: str) -> list[Path]:
    """The .py files below `folders` of the repository, sorted."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    """The parsed file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@cache
def committed_files() -> tuple[Path, ...]:
    """What Git tracks, or would if everything were added now; files that were deleted are left out."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    return tuple(sorted(path for name in filter(None, listed.split("\0")) if (path := ROOT / name).is_file()))


def where(path: Path, line: int) -> str:
    """How a finding is shown."""
    return f"{path.relative_to(ROOT)}:{line}"
