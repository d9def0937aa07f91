"""`modelfleet namespaces`: teams' areas and the rules that hold in them."""

from argparse import Namespace
from urllib.parse import quote

from fleet.entrypoints.cli.api import JsonObject
from fleet.entrypoints.cli.console import describe
from fleet.entrypoints.cli.context import Context
from fleet.entrypoints.cli.errors import ExitCode
from fleet.entrypoints.cli.grammar import Commands


def register(commands: Commands) -> None:
    """Add the parsers."""
    group = commands.group("namespaces", "teams' areas and their rules")
    group.add("list", run_list, "namespaces and their rules")
    change = group.add("set", run_set, "set the rules of a namespace (administrators)")
    change.add_argument("namespace", metavar="NAMESPACE")
    change.add_argument(
        "--approvals", type=int, required=True, metavar="N", help="other people who approve each rollout, at least"
    )


def run_list(context: Context, _: Namespace) -> int:
    """One row each."""
    found = list(context.api().items("/namespaces"))
    rows = [(item["name"], item["profile"], item["approvals"]) for item in found]
    context.console.table(found, ("namespace", "profile", "approvals"), rows, empty="no namespaces")
    return ExitCode.HEALTHY


def run_set(context: Context, arguments: Namespace) -> int:
    """Rollouts that wait already keep the number that they were started with."""
    body: JsonObject = {"approvals": arguments.approvals}
    record = context.api().patch(f"/namespaces/{quote(arguments.namespace, safe='')}", body)
    context.console.result(record, *describe(record))
    return ExitCode.HEALTHY
