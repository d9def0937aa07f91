"""The documents against the code: what they link to exists, what they tell the reader to type is accepted.

Commands are checked down to their options by asking each program for its own help, so a renamed flag breaks a test and
not a newcomer's first hour.
"""

import ast
import importlib
import io
import re
import shlex
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path
    for path in [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        ROOT / "docker/README.md",
        ROOT / "device_client/README.md",
    ]
    if path.is_file()
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
# Their `main` functions, by import path: called in this process, since starting each anew takes seconds.
PROGRAMS = {
    "modelfleet": ("fleet.entrypoints.cli.__main__", "main"),
    "modelfleet-device": ("device_client.cli", "main"),
    "manage.py": ("manage", "main"),
}


@dataclass(frozen=True)
class Typed:
    """One line that a document tells its reader to type."""

    document: str
    program: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.document}: {self.program} {' '.join(self.words)}"


def _blocks(path: Path) -> list[tuple[str, str]]:
    return FENCE.findall(path.read_text(encoding="utf-8"))


def _typed_lines() -> list[Typed]:
    found = []
    for path in DOCUMENTS:
        for language, body in _blocks(path):
            if language not in {"", "sh", "bash", "console", "shell"}:
                continue
            for line in body.replace("\\\n", " ").splitlines():
                words = _words(line)
                program = words[0].rsplit("/", 1)[-1] if words else ""
                if program == "python" and len(words) > 1 and words[1] == "manage.py":
                    words, program = words[1:], "manage.py"
                if program in {*PROGRAMS, "make"}:
                    found.append(Typed(str(path.relative_to(ROOT)), program, tuple(words[1:])))
    return found


def _words(line: str) -> list[str]:
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # prose or a drawing, not a command
        return []
    while words and re.fullmatch(r"[A-Z_]+=.*|\$|sudo", words[0]):
        words.pop(0)
    return words


@cache
def _help(program: str, subcommands: tuple[str, ...]) -> str | None:
    """A program's help for these subcommands; None when it does not know them."""
    module, function = PROGRAMS[program]
    main = getattr(importlib.import_module(module), function)
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(io.StringIO()):
        patch.setattr(sys, "argv", [program, *subcommands, "--help"])
        try:
            code = main()
        except SystemExit as ended:
            code = ended.code
    return said.getvalue() if not code else None


LINES = _typed_lines()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_document__relative_links__lead_somewhere(document: Path) -> None:
    text = FENCE.sub("", document.read_text(encoding="utf-8"))
    targets = [target.split("#")[0] for target in LINK.findall(text) if not re.match(r"[a-z]+:|#", target)]
    assert [target for target in targets if not (document.parent / target).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_document__python_examples__parse_and_import_what_exists(document: Path) -> None:
    for language, body in _blocks(document):
        if language != "python":
            continue
        for node in ast.walk(ast.parse(body)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(("fleet", "device_client")):
                module = __import__(node.module, fromlist=[alias.name for alias in node.names])
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_documents__make_targets__exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    unknown = [str(line) for line in LINES if line.program == "make" and line.words and line.words[0] not in targets]
    assert unknown == []


@pytest.mark.parametrize("line", [line for line in LINES if line.program != "make"], ids=str)
def test_document__command_line__is_one_that_the_program_knows(line: Typed) -> None:
    subcommands: tuple[str, ...] = ()
    described = _help(line.program, ())
    assert described is not None, f"{line.program} --help fails"
    for word in line.words:
        deeper = None if word.startswith("-") else _help(line.program, (*subcommands, word))
        if deeper is None or deeper == described:
            break
        subcommands, described = (*subcommands, word), deeper
    if line.words and not line.words[0].startswith("-"):
        assert subcommands, f"{line.program} has no command {line.words[0]!r}"
    options = [word.split("=")[0] for word in line.words if re.match(r"--?[a-zA-Z]", word)]
    assert [option for option in options if not re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", described)] == []


@pytest.mark.parametrize("record", sorted((ROOT / "docs/decisions").glob("*.md")), ids=lambda path: path.stem)
def test_decision_record__sections__are_context_options_outcome_and_cost(record: Path) -> None:
    text = record.read_text(encoding="utf-8")
    assert text.startswith(f"# {int(record.name[:4])}. ")
    missing = [name for name in ("**Context.**", "**Outcome.**", "**What gets worse.**") if name not in text]
    assert missing == []


def test_decision_records__numbers__are_consecutive() -> None:
    numbers = [int(path.name[:4]) for path in sorted((ROOT / "docs/decisions").glob("*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))


def test_architecture__named_folders__exist() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^((?:fleet|device_client)/[a-z_]+)\b", text, re.MULTILINE))
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).is_dir()] == []
