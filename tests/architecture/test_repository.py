"""What is committed: no machine's paths, no registry's address, nothing huge, and lists that match the folders."""

import ast
import re
import sys
import tomllib
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.architecture.sources import ROOT, committed_files, python_files, tree_of, where

# Written so that this file does not find itself.
FORBIDDEN = {
    "a path of one machine": re.compile(r"(?<![\w.])/(?:wor[k]|roo[t]|Users|home/[a-z]+)/[\w.-]+"),
    "a sibling of the checkout": re.compile(r"\.\./share[d]\b"),
    "the address of a package index": re.compile(
        r"pypi[.]org|pythonhosted[.]org|registry[.]npmjs[.]org|registry[.]yarnpkg[.]com|/simpl[e]/|--(?:extra-)?index-ur[l]\b"
    ),
}
TEXT_LIMIT_BYTES = 1 << 20
# boto3-stubs[s3] brings the types of the clients that it is asked for; botocore is one release with boto3.
STUBS_OF_EXTRAS = {"mypy-boto3-s3", "botocore"}
# Large files that are meant to be in the product, with the reason.
LARGE_FILES: dict[str, str] = {}
TOP_LEVEL = {
    ".ci", ".editorconfig", ".gitignore", "CHANGELOG.md", "LICENSE", "Makefile", "README.md", "device_client", "docker",
    "docs", "fleet", "manage.py", "pyproject.toml", "requirements.lock", "templates", "tests", ".dockerignore",
}  # fmt: skip


def test_committed_files__machine_paths_and_index_addresses__absent() -> None:
    found = []
    for path in committed_files():
        content = path.read_bytes()
        if b"\0" in content[:8192] or path.name == "requirements.lock":
            continue
        text = content.decode("utf-8", errors="replace")
        for what, pattern in FORBIDDEN.items():
            found += [
                f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1} names {what}: {match.group()}"
                for match in pattern.finditer(text)
            ]
    assert found == []


def test_requirements_lock__every_line__is_a_pin_or_a_hash() -> None:
    line_shape = re.compile(
        r"#.*|[A-Za-z0-9._-]+(\[[a-z0-9,-]+\])?==\S+( ; .*)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?"
    )
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line_shape.fullmatch(line)] == []
    assert any(line.startswith("uv==") for line in lines), "`make venv` takes uv from the lock"


def test_committed_files__over_one_mebibyte__have_a_reason() -> None:
    large = {str(path.relative_to(ROOT)) for path in committed_files() if path.stat().st_size > TEXT_LIMIT_BYTES}
    assert large == set(LARGE_FILES)


def test_top_level__entries__are_those_of_the_layout() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in committed_files()} - TOP_LEVEL == set()


def test_modules__names__say_what_they_hold() -> None:
    vague = {"helpers.py", "utils.py", "util.py", "common.py", "misc.py", "manager.py"}
    assert [str(path) for path in python_files("fleet", "device_client", "tests") if path.name in vague] == []


def test_device_distribution__listed_packages__are_the_folders() -> None:
    listed = tomllib.loads((ROOT / "device_client/pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"][
        "packages"
    ]
    folders = {path.parent for path in python_files("device_client") if path.name == "__init__.py"}
    assert set(listed) == {".".join(folder.relative_to(ROOT).parts) for folder in folders}


def _declared(pyproject: str) -> set[str]:
    """The distributions that a pyproject asks for, in any extra or group."""
    parsed = tomllib.loads((ROOT / pyproject).read_text(encoding="utf-8"))
    project = parsed["project"]
    lists = [
        project["dependencies"],
        *project.get("optional-dependencies", {}).values(),
        *parsed.get("dependency-groups", {}).values(),
    ]
    return {canonicalize_name(Requirement(text).name) for requirements in lists for text in requirements}


@pytest.mark.parametrize(
    ("folders", "pyproject"),
    [(("fleet", "tests"), "pyproject.toml"), (("device_client",), "device_client/pyproject.toml")],
    ids=["modelfleet", "modelfleet-device"],
)
def test_third_party_imports__of_a_distribution__are_declared_by_it(folders: tuple[str, ...], pyproject: str) -> None:
    """What only comes along with something else disappears with it."""
    distributions = metadata.packages_distributions()
    own = {"fleet", "tests", "device_client", *sys.stdlib_module_names}
    declared = _declared(pyproject)
    undeclared = set()
    for path in python_files(*folders):
        for node in ast.walk(tree_of(path)):
            match node:
                case ast.Import(names=aliases):
                    names = [alias.name for alias in aliases]
                case ast.ImportFrom(module=str(module), level=0):
                    names = [module]
                case _:
                    continue
            for top in {name.split(".")[0] for name in names} - own:
                if not {canonicalize_name(name) for name in distributions.get(top, [top])} & (
                    declared | STUBS_OF_EXTRAS
                ):
                    undeclared.add(f"{where(path, node.lineno)} imports {top}")
    assert undeclared == set()


def test_distributions__versions__agree() -> None:
    versions = {
        tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
        for folder in (".", "device_client")
    }
    assert len(versions) == 1
