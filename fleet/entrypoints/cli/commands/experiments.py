"""`modelfleet experiment`: compares versions on real devices. The conductor decides; these are the operator's words."""

import json
from argparse import ArgumentParser, Namespace
from urllib.parse import quote

from fleet.entrypoints.cli.api import Api, JsonObject
from fleet.entrypoints.cli.commands.rollouts import POLICY_HELP, read_policy
from fleet.entrypoints.cli.context import Context
from fleet.entrypoints.cli.counted import counted
from fleet.entrypoints.cli.errors import CommandError, ExitCode
from fleet.entrypoints.cli.grammar import Commands
from fleet.entrypoints.cli.polling import poll
from fleet.entrypoints.cli.quantities import parse_duration_s, parse_model_name, show_time

THIRTY_DAYS_S = 2_592_000.0
ENDED = frozenset({"decided", "promoted", "stopped"})
# What a script is told when an experiment is over.
OUTCOMES = {"ship": ExitCode.HEALTHY, "harm": ExitCode.ROLLED_BACK, "mismatch": ExitCode.HELD}


def register(commands: Commands) -> None:
    """Add the parsers."""
    group = commands.group("experiment", "compare versions on randomised devices (A/B/n)")
    create = group.add("create", run_create, "draft an experiment; no device is touched")
    create.add_argument("model", type=parse_model_name, metavar="MODEL")
    create.add_argument("--spec", required=True, metavar="FILE", help="arms, success metrics, guardrails: a JSON file")
    create.add_argument(
        "--shadow",
        action="store_true",
        help="serve the candidates to nobody: run them beside the champion, and compare",
    )
    plan = group.add("plan", run_plan, "dry run: devices of each arm, and the effects that they could show")
    _add_experiment(plan)
    plan.add_argument("--seed", help="count with this order of the devices")
    start = group.add("start", run_start, "randomise and begin")
    _add_experiment(start)
    start.add_argument("--seed", help="who is in which arm (default: random)")
    start.add_argument("--override-quiet", action="store_true", help="in quiet hours, too; needs a reason")
    _add_reason(start)
    approve = group.add(
        "approve", run_approve, "let an experiment go on that somebody else drafted and that waits for it"
    )
    _add_experiment(approve)
    approve.add_argument("--reason", required=True, metavar="TEXT", help="kept with the approval")
    approve.add_argument("--emergency", action="store_true", help="alone and at once; administrators only, on record")
    approve.add_argument("--if-revision", type=int, metavar="N", help="only if nobody changed it meanwhile")
    listing = group.add("list", run_list, "experiments, the newest first")
    listing.add_argument("--model", type=parse_model_name)
    listing.add_argument("--state")
    _add_experiment(group.add("show", run_show, "arms, sample-ratio check, comparisons, decisions"))
    wait = group.add("wait", run_wait, "wait for the verdict and tell it by the exit code: 0 ship, 2 harm, 3 neither")
    _add_experiment(wait)
    wait.add_argument("--timeout", type=parse_duration_s, default=THIRTY_DAYS_S, help="default: 30d; then exit code 3")
    extend = group.add("extend", run_extend, "give it more time; refused once there is a winner")
    _add_experiment(extend)
    extend.add_argument("--by", type=parse_duration_s, required=True, metavar="DURATION", help="such as 7d")
    _add_reason(extend)
    promote = group.add("promote", run_promote, "start a rollout of the winner, from its share of the devices")
    _add_experiment(promote)
    promote.add_argument("--policy", default="safe-ramp", help=POLICY_HELP)
    _add_reason(promote)
    stop = group.add("stop", run_stop, "end it: every device goes back to the baseline")
    _add_experiment(stop)
    _add_reason(stop)


def _add_experiment(parser: ArgumentParser) -> None:
    parser.add_argument("experiment", metavar="EXPERIMENT", help="such as e-0a1b2c3d4e5f")


def _add_reason(parser: ArgumentParser) -> None:
    parser.add_argument("--reason", default="", metavar="TEXT", help="kept with the decision")
    parser.add_argument("--if-revision", type=int, metavar="N", help="only if nobody changed it meanwhile")


def run_create(context: Context, arguments: Namespace) -> int:
    """The server refuses what does not hold together."""
    try:
        with open(arguments.spec, "rb") as file:  # noqa: PTH123 - a path as it was typed
            spec = json.load(file)
    except OSError as error:
        raise CommandError("file_unreadable", f"cannot read {arguments.spec}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CommandError("spec_malformed", f"{arguments.spec}: expected JSON, {error}") from error
    if arguments.shadow and isinstance(spec, dict):
        spec.setdefault("shadow", {})
    drafted = context.api().post("/experiments", {"model": arguments.model, "spec": spec})
    context.console.result(drafted, f"{drafted['id']}: {drafted['because']}")
    return ExitCode.HEALTHY


def run_plan(context: Context, arguments: Namespace) -> int:
    """Nothing is started. Exit code 1 if the fleet is too small for the arms."""
    api = context.api()
    plan = counted(lambda: api.get(f"{_path(arguments.experiment)}/plan", seed=arguments.seed))
    lines = [f"eligible for every arm: {plan['eligible']} of {plan['population']} devices"]
    lines += [f"  {count} take no part: {reason}" for reason, count in plan["refused"].items()]
    lines += [f"  {arm['name']} (version {arm['version']}): {_devices(arm)}" for arm in plan["arms"]]
    lines += [f"  {size['sentence']}" for size in plan["sizes"]]
    lines += _findings(plan)
    context.console.result(plan, *lines)
    return ExitCode.ERROR if any(item["level"] == "error" for item in plan["findings"]) else ExitCode.HEALTHY


def run_start(context: Context, arguments: Namespace) -> int:
    """From here on devices move."""
    return _act(context, arguments, "start", {"seed": arguments.seed, "override_quiet": arguments.override_quiet})


def run_approve(context: Context, arguments: Namespace) -> int:
    """Never one's own; the server refuses that."""
    return _act(context, arguments, "approve", {"emergency": arguments.emergency})


def run_list(context: Context, arguments: Namespace) -> int:
    """One row each."""
    found = list(context.api().items("/experiments", model=arguments.model, state=arguments.state))
    rows = [
        (item["id"], item["model"], _arms(item), item["state"], item["verdict"], show_time(item["created_at"]))
        for item in found
    ]
    columns = ("experiment", "model", "arms", "state", "verdict", "created")
    context.console.table(found, columns, rows, empty="no experiments")
    return ExitCode.HEALTHY


def run_show(context: Context, arguments: Namespace) -> int:
    """Whether the arms are comparable comes first."""
    api, path = context.api(), _path(arguments.experiment)
    experiment, results = api.get(path), api.get(f"{path}/results")
    decisions = list(api.items(f"{path}/decisions"))
    verdict = f", {experiment['verdict']}" if experiment["verdict"] else ""
    lines = [f"{experiment['id']}: {experiment['model']}, {_arms(experiment)}, is {experiment['state']}{verdict}"]
    lines += [f"  {results[name]['sentence']}" for name in ("assigned", "reporting") if results[name]]
    lines += [
        f"  {arm['name']} (version {arm['version']}): {arm['offered']} of {arm['planned']} devices assigned, "
        f"{arm['committed']} run it{'; dropped: ' + arm['dropped'] if arm['dropped'] else ''}"
        for arm in results["arms"]
    ]
    lines += [f"  {item['sentence']}" for item in results["comparisons"]]
    lines += [f"  note: {note}" for note in results["notes"]]
    lines += [f"  {show_time(item['at'])} {item['action']}: {item['sentence']}" for item in reversed(decisions)]
    context.console.result({"experiment": experiment, "results": results, "decisions": decisions}, *lines)
    return ExitCode.HEALTHY


def run_wait(context: Context, arguments: Namespace) -> int:
    """The verdict is the result."""
    api, path = context.api(), _path(arguments.experiment)

    def ended() -> JsonObject | None:
        experiment = api.get(path)
        return experiment if experiment["state"] in ENDED else None

    experiment = poll(ended, timeout_s=arguments.timeout)
    if experiment is None:
        raise CommandError("timeout", f"{arguments.experiment}: no verdict in {arguments.timeout:g} s", ExitCode.HELD)
    outcome = OUTCOMES.get(experiment["verdict"], ExitCode.HELD)
    document = {"experiment": experiment, "exit_code": int(outcome)}
    context.console.result(
        document, f"{experiment['id']}: {experiment['state']}", f"  {experiment['because']}", *_findings(experiment)
    )
    return outcome


def run_extend(context: Context, arguments: Namespace) -> int:
    """From the planned end, or from now if that has passed."""
    return _act(context, arguments, "extend", {"extra_s": arguments.by})


def run_promote(context: Context, arguments: Namespace) -> int:
    """Phases that the experiment has already been are left out."""
    return _act(context, arguments, "promote", {"policy": read_policy(arguments.policy)})


def run_stop(context: Context, arguments: Namespace) -> int:
    """What it had shown is kept."""
    return _act(context, arguments, "stop", {})


def _act(context: Context, arguments: Namespace, action: str, more: JsonObject) -> int:
    api: Api = context.api()
    headers = {} if arguments.if_revision is None else {"If-Match": f'"{arguments.if_revision}"'}
    body = {"reason": arguments.reason, **more}
    experiment = api.post(f"{_path(arguments.experiment)}:{action}", body, headers=headers)
    context.console.result(
        experiment, f"{experiment['id']}: {experiment['state']}", f"  {experiment['because']}", *_findings(experiment)
    )
    return ExitCode.HEALTHY


def _path(experiment: str) -> str:
    return f"/experiments/{quote(experiment, safe='')}"


def _arms(experiment: JsonObject) -> str:
    arms = experiment["spec"]["arms"]
    return " against ".join(f"{arm['name']} {arm['version']}" for arm in arms)


def _devices(arm: JsonObject) -> str:
    classes = ", ".join(f"{count} {name}" for name, count in arm["classes"].items())
    return f"{sum(arm['classes'].values())} devices ({classes})" if classes else "no devices"


def _findings(document: JsonObject) -> list[str]:
    return [f"  {item['level']}: {item['sentence']}" for item in document.get("findings", [])]
