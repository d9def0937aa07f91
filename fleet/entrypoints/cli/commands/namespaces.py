"""`modelfleet namespaces`: teams' areas and the rules that hold in them."""

from argparse import Namespace
from urllib.parse import quote

from fleet.domain.errors import InvalidInputError
from fleet.domain.quiet import QuietHours, window_of
from fleet.entrypoints.cli.api import JsonObject
from fleet.entrypoints.cli.console import describe
from fleet.entrypoints.cli.context import Context
from fleet.entrypoints.cli.errors import CommandError, ExitCode
from fleet.entrypoints.cli.grammar import Commands


def register(commands: Commands) -> None:
    """Add the parsers."""
    group = commands.group("namespaces", "teams' areas and their rules")
    group.add("list", run_list, "namespaces and their rules")
    change = group.add("set", run_set, "set the rules of a namespace (administrators)")
    change.add_argument("namespace", metavar="NAMESPACE")
    change.add_argument("--approvals", type=int, metavar="N", help="other people who approve each rollout, at least")
    change.add_argument(
        "--quiet",
        action="append",
        metavar="WINDOW",
        help="days, hours and zone in which nothing goes on by itself, such as "
        "'fri,sat 22:00-06:00 Europe/Berlin' or 'daily 22:00-06:00 UTC'; again for more, '' for none",
    )


def run_list(context: Context, _: Namespace) -> int:
    """One row each."""
    found = list(context.api().items("/namespaces"))
    rows = [
        (item["name"], item["profile"], item["approvals"], "; ".join(QuietHours.parse(item["quiet_hours"]).words))
        for item in found
    ]
    context.console.table(found, ("namespace", "profile", "approvals", "quiet hours"), rows, empty="no namespaces")
    return ExitCode.HEALTHY


def run_set(context: Context, arguments: Namespace) -> int:
    """Rollouts that wait already keep the number that they were started with."""
    body: JsonObject = {}
    if arguments.approvals is not None:
        body["approvals"] = arguments.approvals
    if arguments.quiet is not None:
        body["quiet_hours"] = [_window(words) for words in arguments.quiet if words.strip()]
    if not body:
        raise CommandError("usage", "expected --approvals or --quiet, got neither")
    record = context.api().patch(f"/namespaces/{quote(arguments.namespace, safe='')}", body)
    context.console.result(record, *describe(record))
    return ExitCode.HEALTHY


def _window(words: str) -> JsonObject:
    try:
        return window_of(words)
    except InvalidInputError as error:
        raise CommandError("usage", f"--quiet: {error.message}") from error
