"""`modelfleet devices` and `explain`: who may join, who is there, and why a device runs what it runs."""

import shlex
from argparse import Namespace
from urllib.parse import quote

from fleet.entrypoints.cli.api import JsonObject
from fleet.entrypoints.cli.console import describe
from fleet.entrypoints.cli.context import Context
from fleet.entrypoints.cli.errors import ExitCode
from fleet.entrypoints.cli.grammar import Commands
from fleet.entrypoints.cli.quantities import parse_duration_s, parse_model_name, parse_pair, show_time

DAY_S = 86_400.0
_TOLD = {"now": "takes", "later": "is to ask later for", "nothing": "has nothing new to take"}


def register(commands: Commands) -> None:
    """Add the parsers."""
    group = commands.group("devices", "the fleet")
    claim = group.add("claim", run_claim, "let one device join: prints the command to run on it, which works once")
    claim.add_argument("device", metavar="DEVICE_ID")
    claim.add_argument("--hardware-class", required=True, metavar="CLASS", help="such as camera-gen2")
    claim.add_argument("--attribute", action="append", type=parse_pair, default=[], metavar="KEY=VALUE")
    claim.add_argument("--expires", type=parse_duration_s, default=DAY_S, metavar="DURATION", help="default: 24h")
    listing = group.add("list", run_list, "devices and what they run")
    listing.add_argument("--model", type=parse_model_name)
    listing.add_argument("--hardware-class", metavar="CLASS")
    listing.add_argument("--filter", metavar="FILTER", help="such as: attributes.site == 'north' and not group('beta')")
    show = group.add("show", run_show, "what one device last said of itself")
    show.add_argument("device", metavar="DEVICE_ID")
    revoke = group.add("revoke", run_revoke, "shut a device out at once and for good; what it runs keeps running")
    revoke.add_argument("device", metavar="DEVICE_ID")
    explain = commands.add("explain", run_explain, "why a device runs what it runs, step by step")
    explain.add_argument("device", metavar="DEVICE_ID")
    explain.add_argument("model", type=parse_model_name)


def run_claim(context: Context, arguments: Namespace) -> int:
    """The pin is the hash of the trust anchors: a device that is served others refuses to join."""
    api = context.api()
    answer = api.post(
        "/enrolment/claims",
        {
            "device_id": arguments.device,
            "hardware_class": arguments.hardware_class,
            "attributes": dict(arguments.attribute),
            "expires_in_s": int(arguments.expires),
        },
    )
    words = ["modelfleet-device", "enroll", answer["device_url"], "--token", answer["token"], "--pin", answer["pin"]]
    command = shlex.join(words)
    document = {
        "device_id": arguments.device,
        "hardware_class": arguments.hardware_class,
        "token": answer["token"],
        "pin": answer["pin"],
        "url": answer["device_url"],
        "command": command,
        "expires_at": answer["expires_at"],
    }
    context.console.note(
        f"run this on {arguments.device} (add --state DIR and --model NAME); it works once, until {show_time(answer['expires_at'])}:"
    )
    context.console.result(document, command)
    return ExitCode.HEALTHY


def run_list(context: Context, arguments: Namespace) -> int:
    """Devices by what they last attested."""
    devices = list(
        context.api().items(
            "/devices", model=arguments.model, hardware_class=arguments.hardware_class, filter=arguments.filter
        )
    )
    rows = [
        (
            item["device_id"],
            item["hardware_class"],
            "online" if item.get("online") else "offline",
            ", ".join(f"{run['model']}@{_version(run)}" for run in item.get("running", [])),
            show_time(item["last_seen_at"]),
        )
        for item in devices
    ]
    context.console.table(
        devices,
        ("device", "class", "", "runs", "last seen"),
        rows,
        empty="no devices: `modelfleet devices claim` lets one join",
    )
    return ExitCode.HEALTHY


def run_show(context: Context, arguments: Namespace) -> int:
    """Identity, reachability and what it runs; its capabilities are in the JSON form."""
    device = context.api().get(_path(arguments.device))
    context.console.result(device, *describe(_summary(device)), *map(_running_line, device["running"]))
    return ExitCode.HEALTHY


def run_revoke(context: Context, arguments: Namespace) -> int:
    """It cannot be undone: the id stays taken, and the device would have to join under another."""
    device = context.api().post(f"{_path(arguments.device)}:revoke")
    context.console.result(device, f"{device['device_id']} is {device['state']}: it is shut out from now on")
    return ExitCode.HEALTHY


def _version(running: JsonObject) -> str:
    """What it attests of a model: a version, nothing, or something that nobody here knows."""
    return running["version"] or ("unknown" if running["digest"] else "none")


def _path(device: str) -> str:
    return f"/devices/{quote(device, safe='')}"


def _summary(device: JsonObject) -> JsonObject:
    pairs = [f"{name}={value}" for name, value in sorted(device["attributes"].items())]
    return {
        "device": device["device_id"],
        "state": device["state"],
        "reachable": "online" if device["online"] else "offline",
        "class": device["hardware_class"],
        "client": device["client_version"],
        "enrolled": show_time(device["enrolled_at"]),
        "last seen": show_time(device["last_seen_at"]),
        "groups": ", ".join(device["groups"]),
        "attributes": ", ".join(pairs),
    }


def _running_line(running: JsonObject) -> str:
    line = f"  {running['model']}@{_version(running)}  {running['digest'][:16]}  {running['state']}"
    if running["target_version"] not in {"", running["version"]}:
        line += f" on the way to {running['target_version']}"
    return f"{line}: {running['failure']} {running['detail']}".rstrip() if running["failure"] else line


def run_explain(context: Context, arguments: Namespace) -> int:
    """The trace that was stored when the device was last answered."""
    answer = context.api().get(f"/devices/{arguments.device}/explain", model=arguments.model)
    told = _TOLD.get(answer["decision"], answer["decision"])
    what = f" {arguments.model}@{answer['version']}" if answer["version"] else ""
    lines = [f"{arguments.device}: {told}{what}, because {answer['because']}"]
    for item in answer["trace"]:
        sentence = str(item["sentence"]).removeprefix(f"{item['subject']} ")
        lines.append(f"  {item['outcome']:8} {item['subject']}: {sentence}")
    context.console.result(answer, *lines)
    return ExitCode.HEALTHY
