"""`modelfleet rollout`: starts, watches and steers rollouts. The conductor decides; these are the operator's words."""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fleet.domain.presets import PRESETS
from fleet.entrypoints.cli.api import Api, JsonObject, model_path
from fleet.entrypoints.cli.context import Context
from fleet.entrypoints.cli.counted import counted
from fleet.entrypoints.cli.errors import CommandError, ExitCode
from fleet.entrypoints.cli.grammar import Commands
from fleet.entrypoints.cli.polling import poll
from fleet.entrypoints.cli.quantities import parse_duration_s, parse_model_name, parse_model_version, show_time
from fleet.entrypoints.cli.rollout_outcomes import MEANINGS, OUTCOMES

THREE_DAYS_S = 259_200.0
ACTIONS = {
    "hold": ("pause", "stop offering; devices keep what they have"),
    "resume": ("resume", "go on after a hold"),
    "advance": ("advance", "go to the next phase without waiting for its gates"),
    "revert": ("revert", "move devices back to what they ran before"),
    "override-quiet": ("override-quiet", "let it start and go on in its namespace's quiet hours; needs a reason"),
    "cancel": ("cancel", "end it for good, and revert what it moved"),
}
POLICY_HELP = f"a preset ({', '.join(PRESETS)}) or a JSON file"


def register(commands: Commands) -> None:
    """Add the parsers."""
    group = commands.group("rollout", "move a population from one version to another")
    start = group.add("start", run_start, "start a rollout")
    _add_target(start)
    start.add_argument("--seed", help="who is first (default: random; the same seed orders devices the same way)")
    plan = group.add("plan", run_plan, "dry run: who would get what, who nothing, and what the gates could see")
    _add_target(plan)
    listing = group.add("list", run_list, "rollouts, the newest first")
    listing.add_argument("--model", type=parse_model_name)
    listing.add_argument("--state")
    _add_rollout(group.add("show", run_show, "state, phases, gates and decisions"))
    wait = group.add("wait", run_wait, "wait for the outcome and tell it by the exit code: 0, 2 or 3")
    _add_rollout(wait)
    wait.add_argument("--timeout", type=parse_duration_s, default=THREE_DAYS_S, help="default: 72h; then exit code 3")
    wait.add_argument("--on-success", metavar="alias=NAME", help="let this alias name the version once it is healthy")
    approve = group.add("approve", run_approve, "let a rollout go on that somebody else started and that waits for it")
    _add_rollout(approve)
    approve.add_argument("--reason", required=True, metavar="TEXT", help="kept with the approval")
    approve.add_argument("--emergency", action="store_true", help="alone and at once; administrators only, on record")
    approve.add_argument("--if-revision", type=int, metavar="N", help="only if nobody changed it meanwhile")
    for name, (_, summary) in ACTIONS.items():
        action = group.add(name, run_action, summary)
        _add_rollout(action)
        action.add_argument("--reason", default="", metavar="TEXT", help="kept with the decision")
        action.add_argument("--if-revision", type=int, metavar="N", help="only if nobody changed it meanwhile")
        action.set_defaults(action=name)


def _add_target(parser: ArgumentParser) -> None:
    parser.add_argument("version", type=parse_model_version, metavar="MODEL@VERSION")
    parser.add_argument("--policy", default="safe-ramp", help=POLICY_HELP)
    parser.add_argument("--vs", metavar="VERSION", help="the version or alias to compare with (default: what runs now)")


def _add_rollout(parser: ArgumentParser) -> None:
    parser.add_argument("rollout", nargs="?", metavar="ROLLOUT", help="such as r-0a1b2c3d4e5f (default: the newest)")


def run_start(context: Context, arguments: Namespace) -> int:
    """An alias is resolved by the server, at once; the answer says the version."""
    api = context.api()
    body = _body(arguments)
    if arguments.seed is not None:
        body["seed"] = arguments.seed
    rollout = api.post("/rollouts", body)
    context.console.result(
        rollout, f"{rollout['id']}: {rollout['model']}@{rollout['version']} is {rollout['state']}", *_findings(rollout)
    )
    return ExitCode.HEALTHY


def run_plan(context: Context, arguments: Namespace) -> int:
    """Nothing is started. Exit code 4 if there are devices and none could run the version."""
    api = context.api()
    body = _body(arguments)
    plan = counted(lambda: api.post("/plan", body))
    context.console.result(plan, *_plan_lines(plan))
    if plan["population"] and not plan["eligible"]:
        raise CommandError("incompatible", f"none of {plan['population']} devices can run it", ExitCode.INCOMPATIBLE)
    return ExitCode.ERROR if _has_errors(plan) else ExitCode.HEALTHY


def run_list(context: Context, arguments: Namespace) -> int:
    """One row each."""
    found = list(context.api().items("/rollouts", model=arguments.model, state=arguments.state))
    rows = [
        (item["id"], f"{item['model']}@{item['version']}", item["state"], _phase(item), show_time(item["created_at"]))
        for item in found
    ]
    context.console.table(found, ("rollout", "version", "state", "phase", "created"), rows, empty="no rollouts")
    return ExitCode.HEALTHY


def run_show(context: Context, arguments: Namespace) -> int:
    """What an operator looks at before deciding."""
    api = context.api()
    rollout_id = _rollout_id(api, arguments.rollout)
    rollout = api.get(_path(rollout_id))
    gates = api.get(f"{_path(rollout_id)}/gates")
    decisions = list(api.items(f"{_path(rollout_id)}/decisions"))
    lines = [f"{rollout_id}: {rollout['model']}@{rollout['version']} is {rollout['state']}, phase {_phase(rollout)}"]
    if rollout.get("because"):
        lines.append(f"  {rollout['because']}")
    lines += [f"  approved by {item['actor']}: {item['reason']}" for item in rollout.get("approvals", [])]
    lines += [f"  gate {item['name']}{_stratum(item)}: {item['sentence']}" for item in gates["gates"]]
    lines += [f"  note: {note}" for note in gates["notes"]]
    lines += [f"  {_decision_line(item)}" for item in reversed(decisions)]
    context.console.result({"rollout": rollout, "gates": gates, "decisions": decisions}, *lines)
    return ExitCode.HEALTHY


def run_wait(context: Context, arguments: Namespace) -> int:
    """Says each decision as it is taken, on stderr; the outcome is the result."""
    api = context.api()
    alias = _alias_of(arguments.on_success)
    rollout_id = _rollout_id(api, arguments.rollout)
    seen: set[Any] = set()

    def ended() -> JsonObject | None:
        rollout = api.get(_path(rollout_id))
        for decision in reversed(list(api.items(f"{_path(rollout_id)}/decisions"))):
            if decision["id"] not in seen:
                seen.add(decision["id"])
                context.console.note(_decision_line(decision))
        return rollout if rollout["state"] in OUTCOMES else None

    rollout = poll(ended, timeout_s=arguments.timeout)
    if rollout is None:
        raise CommandError("timeout", f"{rollout_id}: no outcome within {arguments.timeout:g} s", ExitCode.HELD)
    outcome = OUTCOMES[str(rollout["state"])]
    if alias is not None and outcome is ExitCode.HEALTHY:
        api.put(f"{model_path(rollout['model'])}/aliases/{quote(alias, safe='')}", {"version": rollout["version"]})
        context.console.note(f"{rollout['model']}: {alias} is now version {rollout['version']}")
    document = {"rollout": rollout, "outcome": outcome.name.lower(), "exit_code": int(outcome)}
    context.console.result(document, f"{rollout_id}: {rollout['state']} ({MEANINGS[outcome]})", *_because(rollout))
    return outcome


def run_action(context: Context, arguments: Namespace) -> int:
    """One word to the conductor; refused by the state table where it makes no sense."""
    api = context.api()
    rollout_id = _rollout_id(api, arguments.rollout, explicit=True)
    verb, _ = ACTIONS[arguments.action]
    headers = {} if arguments.if_revision is None else {"If-Match": f'"{arguments.if_revision}"'}
    rollout = api.post(f"{_path(rollout_id)}:{verb}", {"reason": arguments.reason}, headers=headers)
    context.console.result(rollout, f"{rollout_id}: {rollout['state']}")
    return ExitCode.HEALTHY


def run_approve(context: Context, arguments: Namespace) -> int:
    """Never one's own; the server refuses that."""
    api = context.api()
    rollout_id = _rollout_id(api, arguments.rollout, explicit=True)
    headers = {} if arguments.if_revision is None else {"If-Match": f'"{arguments.if_revision}"'}
    body = {"reason": arguments.reason, "emergency": arguments.emergency}
    rollout = api.post(f"{_path(rollout_id)}:approve", body, headers=headers)
    context.console.result(rollout, f"{rollout_id}: {rollout['state']}", *_because(rollout))
    return ExitCode.HEALTHY


def _body(arguments: Namespace) -> JsonObject:
    model, version = arguments.version
    body: JsonObject = {
        "model": model,
        "version": version,
        "policy": read_policy(arguments.policy),
    }
    if arguments.vs is not None:
        body["against"] = arguments.vs
    return body


def read_policy(word: str) -> JsonObject:
    """A preset by name, or the JSON of a file. Raises CommandError."""
    path = Path(word)
    if not path.exists():
        if path.suffix == ".json" or "/" in word:
            raise CommandError("file_unreadable", f"cannot read {word}: No such file")
        return {"preset": word}
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise CommandError("file_unreadable", f"cannot read {word}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CommandError("policy_malformed", f"{word}: expected JSON, {error}") from error
    if not isinstance(document, dict):
        raise CommandError("policy_malformed", f"{word}: expected an object, got {type(document).__name__}")
    return document


def _rollout_id(api: Api, given: str | None, *, explicit: bool = False) -> str:
    """The rollout that is meant; without a name the newest, which actions refuse to guess."""
    if given is not None:
        return given
    if explicit:
        raise CommandError("usage", "expected a rollout: `modelfleet rollout list` shows them")
    newest = next(iter(api.items("/rollouts", at_most=1)), None)
    if newest is None:
        raise CommandError("not_found", "there are no rollouts: `modelfleet rollout start` makes one")
    return str(newest["id"])


def _path(rollout_id: str) -> str:
    return f"/rollouts/{quote(rollout_id, safe='')}"


def _alias_of(words: str | None) -> str | None:
    if words is None:
        return None
    key, separator, alias = words.partition("=")
    if key != "alias" or not separator or not alias:
        raise CommandError("usage", f"--on-success: expected alias=NAME, got {words!r}")
    return alias


def _phase(rollout: JsonObject) -> str:
    share, reach = rollout.get("share"), rollout.get("reach")
    shown = f" ({reach})" if reach else f" ({share:.0%})" if isinstance(share, int | float) else ""
    return f"{int(rollout.get('phase', 0)) + 1} of {rollout.get('phases', '?')}{shown}"


def _stratum(gate: JsonObject) -> str:
    return f" on {gate['stratum']}" if gate.get("stratum") else ""


def _because(rollout: JsonObject) -> list[str]:
    return [f"  {rollout['because']}"] if rollout.get("because") else []


def _decision_line(decision: JsonObject) -> str:
    return f"{show_time(decision['at'])} phase {int(decision.get('phase', 0)) + 1} {decision['action']}: {decision['sentence']}"


def _findings(document: JsonObject) -> Sequence[str]:
    return [f"  {item.get('level', 'note')}: {item.get('sentence') or item}" for item in document.get("findings", [])]


def _has_errors(plan: JsonObject) -> bool:
    return any(item.get("level") == "error" for item in plan.get("findings", []))


def _plan_lines(plan: JsonObject) -> list[str]:
    lines = [f"eligible: {plan.get('eligible', '?')} of {plan.get('population', '?')} devices"]
    lines += [f"  {count} get {variant}" for variant, count in plan.get("variants", {}).items()]
    lines += [f"  {item['count']} get nothing: {item['reason']}" for item in plan.get("refused", [])]
    lines += [f"  {item['count']} are not asked: {item['reason']}" for item in plan.get("outside", [])]
    for number, (words, counts) in enumerate(zip(plan.get("words", []), plan.get("phases", []), strict=False), start=1):
        treated, control = (sum(item[side] for item in counts["classes"]) for side in ("treated", "control"))
        lines.append(f"  phase {number} ({words}): {treated} treated, {control} control")
    lines += [f"  {item['sentence']}" for item in plan.get("detectable", []) if item.get("sentence")]
    return [*lines, *_findings(plan)]
