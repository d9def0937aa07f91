"""What is committed: no machine's paths, no registry's address, nothing huge, and lists that match the folders."""

import re
import tomllib

from tests.architecture.sources import ROOT, committed_files, python_files

# Written so that this file does not find itself.
FORBIDDEN = {
    "a path of one machine": re.compile(r"(?<![\w.])/(?:wor[k]|roo[t]|Users|home/[a-z]+)/[\w.-]+"),
    "a sibling of the checkout": re.compile(r"\.\./share[d]\b"),
    "the address of a package index": re.compile(
        r"pypi[.]org|pythonhosted[.]org|registry[.]npmjs[.]org|registry[.]yarnpkg[.]com|/simpl[e]/|--(?:extra-)?index-ur[l]\b"
    ),
}
TEXT_LIMIT_BYTES = 1 << 20
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


def test_distributions__versions__agree() -> None:
    versions = {
        tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
        for folder in (".", "device_client")
    }
    assert len(versions) == 1
