"""`modelfleet webhooks`: addresses that are told of what happens."""

from argparse import Namespace

from fleet.entrypoints.cli.console import describe
from fleet.entrypoints.cli.context import Context
from fleet.entrypoints.cli.errors import ExitCode
from fleet.entrypoints.cli.grammar import Commands
from fleet.entrypoints.cli.quantities import show_time


def register(commands: Commands) -> None:
    """Add the parsers."""
    group = commands.group("webhooks", "addresses that are told of what happens")
    add = group.add("add", run_add, "have an address told; prints its secret, which is shown this once")
    add.add_argument("address", metavar="URL")
    add.add_argument("--event", action="append", required=True, metavar="EVENT", help="such as rollout.* (repeatable)")
    add.add_argument("--namespace", default="", metavar="NAME", help="only what happens in it (default: everything)")
    group.add("list", run_list, "addresses and their events")
    for name, run, summary in (
        ("remove", run_remove, "do not tell it any more, and forget what it was told"),
        ("test", run_test, "send a delivery that tells of nothing"),
        ("deliveries", run_deliveries, "what it was told, the newest first"),
    ):
        group.add(name, run, summary).add_argument("webhook", type=int, metavar="ID")
    replay = group.add("replay", run_replay, "deliver once more")
    replay.add_argument("webhook", type=int, metavar="ID")
    replay.add_argument("delivery", type=int, metavar="DELIVERY")


def run_add(context: Context, arguments: Namespace) -> int:
    """The secret is for the receiver, which proves with it who calls."""
    body = {"url": arguments.address, "events": arguments.event, "namespace": arguments.namespace}
    record = context.api().post("/webhooks", body)
    context.console.result(record, *describe(record))
    return ExitCode.HEALTHY


def run_list(context: Context, _: Namespace) -> int:
    """One row each."""
    found = list(context.api().items("/webhooks"))
    rows = [(item["id"], item["url"], item["namespace"] or "*", ", ".join(item["events"])) for item in found]
    context.console.table(found, ("id", "address", "namespace", "events"), rows, empty="no webhooks")
    return ExitCode.HEALTHY


def run_remove(context: Context, arguments: Namespace) -> int:
    """It cannot be undone: a new one has a new secret."""
    context.api().delete(f"/webhooks/{arguments.webhook}")
    context.console.result({"id": arguments.webhook, "removed": True}, f"{arguments.webhook} is removed")
    return ExitCode.HEALTHY


def run_test(context: Context, arguments: Namespace) -> int:
    """`deliveries` tells what became of it."""
    record = context.api().post(f"/webhooks/{arguments.webhook}:test")
    context.console.result(record, f"delivery {record['delivery']} is on its way")
    return ExitCode.HEALTHY


def run_deliveries(context: Context, arguments: Namespace) -> int:
    """One row each."""
    found = list(context.api().items(f"/webhooks/{arguments.webhook}/deliveries", at_most=200))
    rows = [
        (item["id"], show_time(item["created_at"]), item["event"], item["state"], item["attempts"], item["status"],
         item["error"])
        for item in found
    ]  # fmt: skip
    columns = ("id", "since", "event", "state", "attempts", "status", "error")
    context.console.table(found, columns, rows, empty="nothing yet")
    return ExitCode.HEALTHY


def run_replay(context: Context, arguments: Namespace) -> int:
    """Under its own id."""
    record = context.api().post(f"/webhooks/{arguments.webhook}/deliveries/{arguments.delivery}:replay")
    context.console.result(record, f"delivery {record['delivery']} is on its way")
    return ExitCode.HEALTHY
