"""`modelfleet-device enroll|run|status|explain|rollback|doctor`.

Exit status: 0 done, 1 refused or failed (one line on stderr says what was expected), 2 wrong usage. `doctor` exits 1
if anything it looked at needs attention.
"""

import argparse
import importlib
import json
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from device_client import __version__, assembly, inspection
from device_client.config import DEFAULT_STATE, STATE_VARIABLE, Config, StatePaths, load_config, state_paths
from device_client.core.errors import ConfigError, DeviceError
from device_client.wire.errors import WireError

if TYPE_CHECKING:
    from device_client.sdk.client import Client

LOG_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command's entry point."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.DEBUG if options.verbose else logging.INFO, format=LOG_FORMAT, stream=sys.stderr)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except (DeviceError, WireError) as error:
        print(f"modelfleet-device: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="modelfleet-device", description="The device side of Modelfleet.")
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--verbose", action="store_true", help="log everything")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    state = argparse.ArgumentParser(add_help=False)
    state.add_argument("--state", help=f"state directory (default: ${STATE_VARIABLE} or {DEFAULT_STATE})")
    shown = argparse.ArgumentParser(add_help=False)
    shown.add_argument("--json", action="store_true", help="print JSON")

    enroll = commands.add_parser("enroll", parents=[state], help="make this device a member of a fleet")
    enroll.add_argument("server", metavar="SERVER_URL")
    enroll.add_argument("--token", required=True, help="the claim, good for one use")
    enroll.add_argument("--pin", required=True, help="sha256 of the server's trust anchors, printed with the claim")
    enroll.add_argument("--id", default="", help="the name that this device would like")
    _add_choices(enroll)
    enroll.set_defaults(command=_enroll)

    run = commands.add_parser("run", parents=[state], help="run the agent until a signal stops it")
    run.add_argument("--app", metavar="MODULE:FUNCTION", help="also call function(client) in this process")
    _add_choices(run)
    run.set_defaults(command=_run)

    for name, text, function in (
        ("status", "what this device runs and how far an update is", _status),
        ("doctor", "look for what keeps this device from working", _doctor),
    ):
        command = commands.add_parser(name, parents=[state, shown], help=text)
        command.set_defaults(command=function)
    explain = commands.add_parser("explain", parents=[state, shown], help="why this device runs what it runs")
    explain.add_argument("model")
    explain.set_defaults(command=_explain)
    rollback = commands.add_parser("rollback", parents=[state], help="go back to the previous version, here and now")
    rollback.add_argument("model")
    rollback.set_defaults(command=_rollback)
    return parser


def _add_choices(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", action="append", default=[], metavar="NAMESPACE.NAME", help="a model to run (repeat)"
    )
    parser.add_argument("--hardware-class", help="the class of this device, as variants name it")
    parser.add_argument("--precision", action="append", default=[], help="a precision that may run here (repeat)")
    parser.add_argument("--bandwidth", metavar="RATE", help="download no faster, e.g. 300kB or 2MB per second")
    parser.add_argument("--threads", type=int, help="threads of one inference (default 1)")
    parser.add_argument(
        "--in-place",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="without room for two, let a patch use up the installed file; a failed update leaves no file to go back to",
    )
    parser.add_argument(
        "--attribute", action="append", default=[], metavar="KEY=VALUE", help="tell the server (repeat)"
    )


def _chosen(config: Config, options: argparse.Namespace) -> Config:
    attributes = {}
    for text in options.attribute:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise ConfigError(f"expected KEY=VALUE, got {text!r}")
        attributes[key] = value
    if options.threads is not None and options.threads < 1:
        raise ConfigError(f"expected at least one thread, got {options.threads}")
    return config.with_choices(
        models=tuple(options.model),
        hardware_class=options.hardware_class,
        precisions=tuple(options.precision),
        bandwidth=options.bandwidth,
        threads=options.threads,
        in_place=options.in_place,
        attributes=attributes or None,
    )


def _enroll(options: argparse.Namespace) -> int:
    paths = state_paths(options.state)
    blank = Config(device_id="", server_url="", broker_host="", broker_port=1, image_url="")
    config = assembly.enrol(
        options.server,
        token=options.token,
        pin=options.pin,
        wanted_id=options.id,
        paths=paths,
        choices=_chosen(blank, options),
    )
    print(f"enrolled as {config.device_id} in {paths.root}")
    print(f"next: modelfleet-device run --state {paths.root}")
    return 0


def _run(options: argparse.Namespace) -> int:
    from device_client.sdk.client import Client

    application = _load(options.app) if options.app else None
    paths = state_paths(options.state)
    config = load_config(paths)
    chosen = _chosen(config, options)
    if chosen != config:
        assembly.save_config(paths, chosen)
    client = Client(paths.root)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: client.ask_to_stop())
    with client.started():
        logging.getLogger(__name__).info("device %s, models %s", client.device_id, ", ".join(chosen.models) or "none")
        if application is not None:
            application(client)
            client.ask_to_stop()
        while not client.wait(1.0):
            if not client.alive:
                print("modelfleet-device: the agent has died; see its log", file=sys.stderr)
                return 1
    return 0


def _load(name: str) -> "Callable[[Client], object]":
    """`module:function`, looked up in the working directory too."""
    module, _, function = name.partition(":")
    if not module or not function:
        raise ConfigError(f"expected MODULE:FUNCTION, got {name!r}")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"expected an application {name}, got {error}") from error
    if not callable(found):
        raise ConfigError(f"expected {name} to be callable, got {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def _show(options: argparse.Namespace, value: dict[str, object], text: Callable[[dict[str, object]], str]) -> None:
    print(json.dumps(value, indent=2) if options.json else text(value))


def _paths_of_device(options: argparse.Namespace) -> tuple[StatePaths, Config]:
    paths = state_paths(options.state)
    return paths, load_config(paths)


def _status(options: argparse.Namespace) -> int:
    paths, config = _paths_of_device(options)
    _show(options, inspection.status(paths, config), inspection.status_text)
    return 0


def _explain(options: argparse.Namespace) -> int:
    paths, config = _paths_of_device(options)
    _show(options, inspection.explain(paths, config, options.model), inspection.explain_text)
    return 0


def _rollback(options: argparse.Namespace) -> int:
    paths, config = _paths_of_device(options)
    print(inspection.request_rollback(paths, config, options.model))
    return 0


def _doctor(options: argparse.Namespace) -> int:
    paths, config = _paths_of_device(options)
    findings = inspection.examine(paths, config)
    _show(
        options, {"findings": [finding.__dict__ for finding in findings]}, lambda _: inspection.findings_text(findings)
    )
    return 0 if all(finding.good for finding in findings) else 1


if __name__ == "__main__":
    sys.exit(main())
