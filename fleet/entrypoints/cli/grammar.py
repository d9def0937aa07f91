"""How the command line is put together: commands, groups of commands, and the options that all of them have."""

from argparse import SUPPRESS, ArgumentParser, RawDescriptionHelpFormatter, _SubParsersAction
from typing import NoReturn

from fleet.entrypoints.cli.context import Run
from fleet.entrypoints.cli.errors import CommandError


class OneLineParser(ArgumentParser):
    """An argparse parser whose refusals are one line and this command's exit code."""

    def error(self, message: str) -> NoReturn:
        raise CommandError("usage", f"{message} (try `{self.prog} --help`)")


class Commands:
    """Where commands are added; a group is a command that has commands."""

    def __init__(self, subparsers: "_SubParsersAction[ArgumentParser]") -> None:
        self._subparsers = subparsers

    def add(self, name: str, run: Run, summary: str, details: str = "") -> ArgumentParser:
        """A command that `run` carries out."""
        parser: ArgumentParser = self._subparsers.add_parser(
            name,
            help=summary,
            description=f"{summary[:1].upper()}{summary[1:]}.\n{details}".strip(),
            formatter_class=RawDescriptionHelpFormatter,
        )
        add_common_options(parser)
        parser.set_defaults(run=run)
        return parser

    def group(self, name: str, summary: str) -> "Commands":
        """A group such as `keys`."""
        parser: ArgumentParser = self._subparsers.add_parser(name, help=summary, description=summary)
        return Commands(parser.add_subparsers(metavar="COMMAND", required=True, parser_class=OneLineParser))


def add_common_options(parser: ArgumentParser) -> None:
    """Accepted before and after the command's name; absent means: as said before."""
    parser.add_argument("--json", action="store_true", default=SUPPRESS, help="print the result as JSON")
    parser.add_argument("--url", default=SUPPRESS, metavar="URL", help="the server (else $MODELFLEET_URL, else login)")
