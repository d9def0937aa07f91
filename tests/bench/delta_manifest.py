"""Which pairs a directory has, by its `manifest.json`. Everything that is wrong with it is said before anything is measured."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench.delta_measuring import Pair

NAME = "manifest.json"
_KEYS = ("name", "old", "new")


class ManifestError(Exception):
    """The manifest cannot be followed: one line for each thing that is wrong."""


def read(directory: Path, only: str = "") -> list[Pair]:
    """The pairs that have `only` in their name; raises ManifestError. Without a kind, a pair's is the empty string."""
    path = directory / NAME
    try:
        entries = json.loads(path.read_text())
    except OSError as error:
        raise ManifestError(f"{path}: expected a readable file, got {error.strerror}") from error
    except ValueError as error:
        raise ManifestError(f"{path}: expected JSON, got {error}") from error
    if not isinstance(entries, list):
        raise ManifestError(f"{path}: expected a list of pairs, got {type(entries).__name__}")
    problems = [
        f"{path}: entry {number}: {problem}"
        for number, entry in enumerate(entries)
        for problem in _problems(directory, entry)
    ]
    names = Counter(
        entry["name"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("name"), str)
    )
    problems += [f"{path}: expected each name once, got {name!r} {n} times" for name, n in names.items() if n > 1]
    if problems:
        raise ManifestError("\n".join(problems))
    return [
        Pair(entry["name"], entry.get("kind", ""), directory / entry["old"], directory / entry["new"])
        for entry in entries
        if only in entry["name"]
    ]


def _problems(directory: Path, entry: Any) -> Iterator[str]:
    if not isinstance(entry, dict):
        yield f"expected an object with {', '.join(_KEYS)}, got {type(entry).__name__}"
        return
    for key in (*_KEYS, *(["kind"] if "kind" in entry else [])):
        if not isinstance(entry.get(key), str) or not entry[key]:
            yield f"expected a text as {key!r}, got {json.dumps(entry.get(key))}"
        elif key in {"old", "new"}:
            path = directory / entry[key]
            if not path.is_file() or not os.access(path, os.R_OK):
                yield f"expected a readable file as {key!r}, got {path}"
