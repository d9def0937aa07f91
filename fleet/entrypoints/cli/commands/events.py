"""`modelfleet tail`: what is decided and done, as it happens."""

import time
from argparse import Namespace
from itertools import count

from fleet.entrypoints.cli.api import Api, JsonObject
from fleet.entrypoints.cli.context import Context
from fleet.entrypoints.cli.errors import ExitCode
from fleet.entrypoints.cli.grammar import Commands
from fleet.entrypoints.cli.quantities import parse_model_name, show_time

SHOWN_AT_START = 10
INTERVAL_S = 2.0


def register(commands: Commands) -> None:
    """Add the parser."""
    parser = commands.add("tail", run_tail, "follow decisions and changes until interrupted")
    parser.add_argument("--model", type=parse_model_name, help="rollouts of this model only")
    parser.add_argument("--once", action="store_true", help="show the newest and end")


def run_tail(context: Context, arguments: Namespace) -> int:
    """Polls: decisions of the newest rollouts, and the audit log."""
    api = context.api()
    seen: set[tuple[str, object]] = set()
    for turn in count():
        fresh = [item for item in _events(api, arguments.model) if (item["kind"], item["id"]) not in seen]
        seen.update((item["kind"], item["id"]) for item in fresh)
        fresh.sort(key=lambda item: str(item["at"]))
        for item in fresh[-SHOWN_AT_START:] if turn == 0 else fresh:
            context.console.event(
                item, f"{show_time(item['at'])}  {item['subject']}  {item['action']}: {item['sentence']}"
            )
        if arguments.once:
            return ExitCode.HEALTHY
        time.sleep(INTERVAL_S)
    return ExitCode.HEALTHY


def _events(api: Api, model: str | None) -> list[JsonObject]:
    found: list[JsonObject] = []
    for rollout in api.items("/rollouts", at_most=SHOWN_AT_START, model=model):
        decisions = api.items(f"/rollouts/{rollout['id']}/decisions", at_most=SHOWN_AT_START)
        found += [_decision(rollout, item) for item in decisions]
    if model is None:
        found += [_audit(item) for item in api.items("/audit", at_most=SHOWN_AT_START)]
    return found


def _decision(rollout: JsonObject, item: JsonObject) -> JsonObject:
    return {
        "kind": "decision",
        "id": item["id"],
        "at": item["at"],
        "subject": f"{rollout['id']} {rollout['model']}@{rollout['version']}",
        "action": item["action"],
        "sentence": item["sentence"],
    }


def _audit(item: JsonObject) -> JsonObject:
    return {
        "kind": "audit",
        "id": item["id"],
        "at": item["at"],
        "subject": item["subject"],
        "action": item["action"],
        "sentence": f"by {item['actor']}",
    }
