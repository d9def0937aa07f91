"""`modelfleet stop`: the emergency stop. Nothing moves any more; what runs keeps running."""

from argparse import Namespace

from fleet.entrypoints.cli.context import Context
from fleet.entrypoints.cli.errors import ExitCode
from fleet.entrypoints.cli.grammar import Commands
from fleet.entrypoints.cli.quantities import show_time

EVERYTHING = "everything"


def register(commands: Commands) -> None:
    """Add the parsers."""
    group = commands.group("stop", "emergency: stop downloads and offers of a model, a namespace or everything")
    for name, run, summary in (
        ("set", run_set, "stop now; what runs keeps running"),
        ("lift", run_lift, "let devices move again; rollouts that were held wait for `rollout resume`"),
    ):
        parser = group.add(name, run, summary)
        parser.add_argument("scope", metavar="SCOPE", help=f"a model, a namespace, or the word {EVERYTHING}")
        parser.add_argument("--reason", required=True, metavar="TEXT", help="shown to everybody who asks why")
    group.add("list", run_list, "stops in force")


def run_set(context: Context, arguments: Namespace) -> int:
    """Takes effect with the next message that devices get; those that ask are refused at once."""
    record = context.api().post("/stops", _body(arguments))
    context.console.result(record, f"{arguments.scope} is stopped: {record['reason']}")
    return ExitCode.HEALTHY


def run_lift(context: Context, arguments: Namespace) -> int:
    """Nothing starts by itself that a person has not resumed."""
    context.api().post("/stops:lift", _body(arguments))
    context.console.result({"scope": arguments.scope, "lifted": True}, f"{arguments.scope} is not stopped any more")
    return ExitCode.HEALTHY


def run_list(context: Context, _: Namespace) -> int:
    """One row each."""
    found = list(context.api().items("/stops"))
    rows = [(item["scope"], item["reason"], item["created_by"], show_time(item["created_at"])) for item in found]
    context.console.table(found, ("scope", "reason", "by", "since"), rows, empty="nothing is stopped")
    return ExitCode.HEALTHY


def _body(arguments: Namespace) -> dict[str, str]:
    return {"scope": "*" if arguments.scope == EVERYTHING else arguments.scope, "reason": arguments.reason}
