"""`modelfleet`: parses the command line, runs one command, turns what went wrong into one line and an exit code."""

import os
import signal
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from importlib import import_module, metadata
from io import TextIOWrapper
from typing import Final, TextIO

from fleet.entrypoints.cli.console import Console
from fleet.entrypoints.cli.context import Context
from fleet.entrypoints.cli.errors import CommandError, ExitCode
from fleet.entrypoints.cli.grammar import Commands, OneLineParser, add_common_options
from fleet.entrypoints.cli.logins import find_login

# Which module adds which commands. Signing libraries take a second to import, so only the module that is meant is.
MODULES: Final[Mapping[str, Sequence[str]]] = {
    "account": ("login", "whoami"),
    "keys": ("keys",),
    "models": ("models", "versions", "revoke", "alias"),
    "namespaces": ("namespaces",),
    "push": ("push",),
    "stops": ("stop",),
    "webhooks": ("webhooks",),
    "rollouts": ("rollout",),
    "experiments": ("experiment",),
    "devices": ("devices", "explain"),
    "events": ("tail",),
    "delta": ("delta",),
}
EXIT_CODES = """
exit codes: 0 done, or the rollout is healthy; 1 error; 2 rolled back; 3 held or inconclusive; 4 no device can run it
environment: MODELFLEET_URL, MODELFLEET_TOKEN, MODELFLEET_KEYS_PASSPHRASE
"""


def build_parser(words: Sequence[str] = ()) -> OneLineParser:
    """The whole command line, or as much of it as parses `words` if their first command is known."""
    parser = OneLineParser(
        prog="modelfleet",
        description="Release machine-learning models to a fleet, and watch them arrive.",
        epilog=EXIT_CODES,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"modelfleet {metadata.version('modelfleet')}")
    add_common_options(parser)
    commands = Commands(parser.add_subparsers(metavar="COMMAND", required=True, parser_class=OneLineParser))
    meant = [module for module, names in MODULES.items() if _first_command(words) in names]
    for module in meant or MODULES:
        import_module(f"fleet.entrypoints.cli.commands.{module}").register(commands)
    return parser


def _first_command(words: Sequence[str]) -> str | None:
    """The first word that is neither an option nor the value of one."""
    rest = iter(words)
    for word in rest:
        if word == "--url":
            next(rest, None)
        elif not word.startswith("-"):
            return word
    return None


def run(words: Sequence[str], environment: Mapping[str, str], out: TextIO, err: TextIO) -> int:
    """Run one command line; returns its exit code."""
    console = Console(as_json="--json" in words, out=out, err=err)
    try:
        arguments = build_parser(words).parse_args(list(words))
        login = find_login(environment, getattr(arguments, "url", None))
        return int(arguments.run(Context(console, environment, login), arguments))
    except CommandError as error:
        console.error(error)
        return int(error.exit_code)
    except KeyboardInterrupt:
        return int(ExitCode.INTERRUPTED)


def main() -> int:
    """The entry point of the installed command. What ends it from outside lets it clean up first."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # Whoever says nohup means it.
            signal.signal(number, _end)
    for stream in (sys.stdout, sys.stderr):
        # Names of files need not be text in anybody's encoding.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return run(sys.argv[1:], os.environ, sys.stdout, sys.stderr)
    except BrokenPipeError:
        # Whoever read our output has seen enough.
        _say_no_more()
    except OSError as error:
        if error.filename is not None:
            raise
        _say_no_more()
        sys.stderr.write(f"modelfleet: expected room for what was to be said, got: {error.strerror or error}\n")
    return int(ExitCode.ERROR)


def _end(number: int, _frame: object) -> None:
    # As the shell counts those that a signal has ended.
    sys.exit(128 + number)


def _say_no_more() -> None:
    """Keep Python from complaining about its output once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
