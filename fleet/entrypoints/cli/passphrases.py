"""Where the passphrase of a key set comes from: a file, the environment, or the person at the terminal."""

import getpass
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

from fleet.entrypoints.cli.errors import CommandError
from fleet.ports.key_sets import Passphrase

VARIABLE: Final = "MODELFLEET_KEYS_PASSPHRASE"
MIN_CHARS: Final = 8


def add_options(parser: ArgumentParser) -> None:
    """`--passphrase-file`, the same for every command that signs."""
    parser.add_argument(
        "--passphrase-file", type=Path, metavar="FILE", help=f"first line = passphrase (else ${VARIABLE}, else asked)"
    )


def passphrase_source(arguments: Namespace, environment: Mapping[str, str]) -> Passphrase:
    """Asks at most once, and only when a key turns out to be encrypted."""

    @cache
    def ask() -> bytes | None:
        given = _given(arguments.passphrase_file, environment)
        if given is not None:
            return given
        return _prompt("passphrase of the keys: ") if _interactive() else None

    return ask


def new_passphrase(arguments: Namespace, environment: Mapping[str, str]) -> bytes:
    """The passphrase of a new key set, asked twice at a terminal. Raises CommandError if there is none."""
    given = _given(arguments.passphrase_file, environment)
    if given is None:
        if not _interactive():
            raise CommandError(
                "passphrase_missing",
                f"expected --passphrase-file, ${VARIABLE} or --no-passphrase, got none and no terminal to ask at",
            )
        given = _prompt("new passphrase of the keys: ")
        if _prompt("the same again: ") != given:
            raise CommandError("passphrase_mismatch", "expected the same passphrase twice, got two different ones")
    if len(given.decode()) < MIN_CHARS:
        raise CommandError("passphrase_short", f"expected a passphrase of at least {MIN_CHARS} characters")
    return given


def _given(path: Path | None, environment: Mapping[str, str]) -> bytes | None:
    if path is not None:
        try:
            return path.read_text(encoding="utf-8").splitlines()[0].encode()
        except (OSError, ValueError, IndexError) as error:
            reason = error.strerror if isinstance(error, OSError) else "expected a line of text"
            raise CommandError("passphrase_unreadable", f"cannot read {path}: {reason}") from error
    value = environment.get(VARIABLE)
    return value.encode() if value else None


def _interactive() -> bool:
    return sys.stdin.isatty()


def _prompt(words: str) -> bytes:
    return getpass.getpass(words, stream=sys.stderr).encode()
