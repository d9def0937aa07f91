"""Time, randomness and ids are arguments of pure code; models are private to their apps.

Import contracts see modules; these tests see calls, and imports inside functions or under TYPE_CHECKING alike.
"""

import ast
from pathlib import Path

import pytest

from tests.architecture.sources import PURE_PACKAGES, ROOT, python_files, tree_of, where

# Calls that read a clock, throw dice or make an id, by the last part of the called name.
AMBIENT_CALLS = {
    "now",
    "utcnow",
    "today",
    "uuid1",
    "uuid4",
    "getrandom",
    "urandom",
    "token_hex",
    "token_bytes",
    "monotonic",
}
APPS = sorted(path.parent for path in (ROOT / "fleet/apps").glob("*/apps.py"))
AMBIENT_QUALIFIED = {"time.time", "time.time_ns", "random.random", "random.choice", "random.Random"}


def _ambient_calls(tree: ast.Module) -> list[tuple[int, str]]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in AMBIENT_QUALIFIED or called.rsplit(".", 1)[-1] in AMBIENT_CALLS:
                found.append((node.lineno, called))
    return found


@pytest.mark.parametrize("package", PURE_PACKAGES)
def test_pure_package__reads_clock_or_dice__fails(package: str) -> None:
    files = python_files(package)
    assert files, f"{package} is empty: has it moved?"
    assert [
        f"{where(path, line)} calls {name}()" for path in files for line, name in _ambient_calls(tree_of(path))
    ] == []


def test_ambient_calls__source_that_makes_them__finds_each() -> None:
    source = "import datetime, uuid, time\nuuid.uuid4()\ntime.time()\ndatetime.datetime.now(tz=None)\nclock.read()\n"
    assert _ambient_calls(ast.parse(source)) == [(2, "uuid.uuid4"), (3, "time.time"), (4, "datetime.datetime.now")]


def _imported_modules(path: Path) -> list[tuple[str, int]]:
    """Dotted names that a file imports, absolute, with `from a import b` giving both a and a.b."""
    package = ".".join(path.relative_to(ROOT).with_suffix("").parts[:-1])
    found: list[tuple[str, int]] = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found += [(base, node.lineno), *((f"{base}.{alias.name}", node.lineno) for alias in node.names)]
    return found


def test_models__imported_outside_their_app__fails() -> None:
    strangers = []
    for path in python_files("fleet"):
        own = path.relative_to(ROOT / "fleet").parts
        for name, line in _imported_modules(path):
            parts = name.split(".")
            if parts[:2] == ["fleet", "apps"] and parts[3:4] == ["models"] and own[:2] != ("apps", parts[2]):
                strangers.append(f"{where(path, line)} imports {name}")
    assert strangers == []


def _services_of(app: Path) -> list[tuple[Path, ast.FunctionDef]]:
    """The public functions that an app offers as services: those of services.py, or those a package re-exports."""
    if (app / "services.py").exists():
        files, exported = [app / "services.py"], None
    else:
        files = sorted((app / "services").rglob("*.py"))
        borders = [node for path in files if path.name == "__init__.py" for node in tree_of(path).body]
        exported = {alias.name for node in borders if isinstance(node, ast.ImportFrom) for alias in node.names}
    return [
        (path, node)
        for path in files
        for node in tree_of(path).body
        if isinstance(node, ast.FunctionDef)
        and (node.name in exported if exported is not None else not node.name.startswith("_"))
    ]


@pytest.mark.parametrize("app", APPS, ids=lambda path: path.name)
def test_services__positional_parameters__refused(app: Path) -> None:
    """Services are keyword-only: a call says what each value is."""
    positional = [
        f"{where(path, node.lineno)} {node.name}({', '.join(argument.arg for argument in named)})"
        for path, node in _services_of(app)
        if (named := node.args.posonlyargs + node.args.args)
    ]
    assert positional == []


def test_app_code__save_overrides_and_signals__refused() -> None:
    found = []
    for path in python_files("fleet/apps"):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ClassDef):
                found += [
                    f"{where(path, item.lineno)} overrides {node.name}.save()"
                    for item in node.body
                    if isinstance(item, ast.FunctionDef) and item.name == "save" and path.name != "admin.py"
                ]
        found += [
            f"{where(path, line)} imports {name}"
            for name, line in _imported_modules(path)
            if name.startswith(("django.db.models.signals", "django.dispatch"))
        ]
    assert found == []
