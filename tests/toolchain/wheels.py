"""The wheel guard: what a device and a pipeline really install works on its own.

Builds both wheels, installs each with its declared dependencies into a bare environment, imports every module of
the device client, starts both commands, and asserts that Django came along with neither. Run by `make check`.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOWEST_PYTHON = "3.10"

# Runs inside the bare environment, so it may use the standard library and the installed packages only.
IMPORT_EVERYTHING = """
import importlib, importlib.util, pathlib, pkgutil, sys
import {package} as package
where = pathlib.Path(package.__file__)
assert where.is_relative_to(sys.prefix), f"imported from {{where}}, not from the wheel"
found = pkgutil.walk_packages(package.__path__, package.__name__ + ".")
names = sorted(module.name for module in found if not module.name.endswith("__main__"))
assert names, "the wheel carries no modules"
for name in names:
    importlib.import_module(name)
assert importlib.util.find_spec("django") is None, "Django came along"
print(len(names), "modules on Python", sys.version.split()[0])
"""


def main() -> int:
    """Print one line per wheel; 1 when one of them does not hold."""
    with tempfile.TemporaryDirectory(prefix="mf-wheels-") as scratch:
        here = Path(scratch)
        try:
            device = _build(ROOT / "device_client", here / "dist")
            server = _build(ROOT, here / "dist")
            python = _bare_environment(here / "device", _lowest_python())
            _install(python, f"{device}[onnx,tensor]")
            said = _run([python, "-c", IMPORT_EVERYTHING.format(package="device_client")], here)
            _run([python.parent / "modelfleet-device", "--help"], here)
            print(f"modelfleet-device: {said.strip()}")
            python = _bare_environment(here / "cli", sys.executable)
            _install(python, device, f"{server}[cli]")
            said = _run([python, "-c", IMPORT_EVERYTHING.format(package="fleet.entrypoints.cli")], here)
            _run([python.parent / "modelfleet", "--help"], here)
            print(f"modelfleet[cli]: {said.strip()}")
        except subprocess.CalledProcessError as error:
            print(f"{' '.join(map(str, error.cmd))[:200]}\n{error.stdout}{error.stderr}", file=sys.stderr)
            return 1
    return 0


def _build(source: Path, destination: Path) -> Path:
    """One wheel, built from a copy of what Git knows, so that stray files of a work tree cannot make it whole."""
    copy = destination.parent / f"source-{source.name}"
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "."],
        cwd=source, capture_output=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.decode().split("\0")):
        if (source / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, copy / name)
    before = set(destination.glob("*.whl"))
    _uv(
        "build", "--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", str(destination), str(copy)
    )
    (made,) = set(destination.glob("*.whl")) - before
    return made


def _lowest_python() -> str:
    """The oldest Python that the device package promises, if this machine has it; otherwise the one running."""
    found = shutil.which(f"python{LOWEST_PYTHON}")
    works = found and subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0
    return found if found and works else sys.executable


def _bare_environment(where: Path, python: str) -> Path:
    _uv("venv", "--quiet", "--python", python, str(where))
    return where / "bin" / "python"


def _install(python: Path, *requirements: str | Path) -> None:
    _uv("pip", "install", "--quiet", "--python", str(python), *map(str, requirements))


def _uv(*arguments: str) -> None:
    _run([Path(sys.executable).parent / "uv", *arguments], ROOT)


def _run(command: list[str | Path], directory: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    return subprocess.run(
        list(map(str, command)), cwd=directory, env=environment, capture_output=True, text=True, check=True
    ).stdout


if __name__ == "__main__":
    sys.exit(main())
