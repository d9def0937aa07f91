"""What a person at the device can see: status, explanations, findings. Reads what is stored; an agent may be running.

The one thing written here is a request for a rollback, which the agent takes up at once or when it is next started.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Final

from device_client import __version__, assembly
from device_client.adapters import durable
from device_client.adapters.patching.journal import patch_bytes_taken
from device_client.adapters.slots import STAGING_PREFIX
from device_client.config import Config, StatePaths
from device_client.core.deployment import Deployment
from device_client.core.errors import ConfigError, DeviceError
from device_client.core.keys import (
    FLOOR_KEY,
    LAST_CHECK_KEY,
    LAST_REFUSAL_KEY,
    PART,
    REFUSED_KEY,
    RENEWAL_TROUBLE_KEY,
    STREAM,
    answer_key,
    progress_key,
    serving_key,
)
from device_client.ports import Journal
from device_client.wire.states import Transport, UpdateState

LOW_DISK_BYTES: Final = 256 * 2**20
EXPIRY_WARNING: Final = timedelta(days=7)


def _time(seconds: int | None) -> str | None:
    return None if not seconds else datetime.fromtimestamp(seconds, tz=timezone.utc).isoformat()


def running(paths: StatePaths) -> bool:
    """Whether an agent holds the state directory."""
    if not paths.lock.exists():
        return False
    with durable.exclusively(paths.lock) as free:
        return not free


def status(paths: StatePaths, config: Config) -> dict[str, object]:
    """Everything about this device that changes."""
    shown: dict[str, object] = {
        "device_id": config.device_id,
        "client_version": __version__,
        "server_url": config.server_url,
        "hardware_class": config.hardware_class,
        "agent_running": running(paths),
    }
    if not paths.database.exists():
        return {**shown, "models": {model: {"state": UpdateState.IDLE.value} for model in config.models}}
    with assembly.stored(paths) as (journal, outbox, slots):
        stored = journal.deployments()
        models = {
            model: _model_status(paths, journal, slots.links(model).current, slots.links(model).previous, item)
            for model in dict.fromkeys((*config.models, *stored))
            for item in [stored.get(model) or Deployment(model)]
        }
        return {
            **shown,
            "outbox_depth": outbox.depth(),
            "outbox_dropped": outbox.dropped(),
            "last_check_at": _time(int(journal.recall(LAST_CHECK_KEY) or 0)),
            "refused_bundles": int(journal.recall(REFUSED_KEY) or 0),
            "last_refusal": journal.recall(LAST_REFUSAL_KEY),
            "models": models,
        }


def _model_status(
    paths: StatePaths, journal: Journal, current: str, previous: str, deployment: Deployment
) -> dict[str, object]:
    serving = _json(journal.recall(serving_key(deployment.model)))
    target = deployment.target
    shown: dict[str, object] = {
        "state": deployment.state.value,
        "active_digest": current,
        "active_version": serving.get("version", "") if serving.get("digest") == current else "",
        "previous_digest": previous,
        "target_version": "" if target is None else target.version,
        "target_digest": "" if target is None else target.digest,
        "rollout": "" if target is None else target.rollout,
        "revision": 0 if target is None else target.revision,
        "transport": deployment.transport.value,
        "bytes_received": deployment.bytes_received,
        "bytes_total": deployment.bytes_total,
        "resumed_from": deployment.resumed_from,
        "restarts": deployment.restarts,
        "failure": None if deployment.failure is None else deployment.failure.value,
        "detail": deployment.detail,
    }
    if deployment.state in {UpdateState.DOWNLOADING, UpdateState.HALTED} and target is not None:
        done, total, transport = _progress(paths, journal, deployment.model, target.digest)
        shown |= {"bytes_done": done, "bytes_to_fetch": total, "transport": transport}
        shown["bytes_total"] = total or deployment.bytes_total
    return shown


def _json(text: str | None) -> Mapping[str, object]:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _progress(paths: StatePaths, journal: Journal, model: str, digest: str) -> tuple[int, int, str]:
    """Bytes on disk, bytes to fetch and transport of the download under way: the files themselves are the measure."""
    noted = _json(journal.recall(progress_key(model)))
    parts = noted.get("parts")
    if noted.get("digest") != digest or not isinstance(parts, dict):
        return 0, 0, Transport.NONE.value
    staging = paths.models / model / f"{STAGING_PREFIX}{digest}"
    done = sum(min(int(length), _bytes_here(staging, name)) for name, length in parts.items())
    return done, sum(int(length) for length in parts.values()), str(noted.get("transport"))


def _bytes_here(staging: Path, name: str) -> int:
    if name.startswith(STREAM):
        return patch_bytes_taken(staging / name)
    return _size(staging / name) or _size(staging / name.removeprefix(PART))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def status_text(shown: dict[str, object]) -> str:
    """The status for people."""
    lines = [
        f"device   {shown['device_id']} ({shown['hardware_class']}), client {shown['client_version']}",
        f"server   {shown['server_url']}",
        f"agent    {'running' if shown['agent_running'] else 'not running'}",
        f"contact  last answer {shown.get('last_check_at') or 'never'}, {shown.get('outbox_depth', 0)} messages waiting",
    ]
    models = shown["models"]
    for model, item in models.items() if isinstance(models, dict) else ():
        active = item.get("active_version") or "nothing installed"
        lines.append(f"model    {model}: {active} ({str(item.get('active_digest', ''))[:12]}), {item['state']}")
        if item["state"] == UpdateState.DOWNLOADING.value and item.get("bytes_to_fetch"):
            share = 100 * item["bytes_done"] // item["bytes_to_fetch"]
            lines.append(
                f"         {item['target_version']} by {item['transport']}: "
                f"{item['bytes_done']} of {item['bytes_to_fetch']} bytes ({share}%)"
            )
        if item.get("failure"):
            lines.append(f"         {item['target_version']} failed: {item['failure']}: {item['detail']}")
    return "\n".join(lines)


def explain(paths: StatePaths, config: Config, model: str) -> dict[str, object]:
    """Why this device runs what it runs: the last signed answer and what became of it."""
    from device_client.adapters.trust import explain_metadata

    if not paths.database.exists():
        raise ConfigError(f"expected a device that has run, got no answer for {model} yet")
    with assembly.stored(paths) as (journal, _, slots):
        deployment = journal.deployments().get(model)
        if deployment is None and model not in config.models:
            raise ConfigError(f"expected one of {list(config.models)}, got {model!r}")
        serving = _json(journal.recall(serving_key(model)))
        return {
            "model": model,
            "active_digest": slots.links(model).current,
            "serving": dict(serving),
            "answer": dict(_json(journal.recall(answer_key(model)))),
            "state": UpdateState.IDLE.value if deployment is None else deployment.state.value,
            "failure": None if deployment is None or deployment.failure is None else deployment.failure.value,
            "detail": "" if deployment is None else deployment.detail,
            "denied": [item.__dict__ for item in journal.denied(model)],
            "metadata": explain_metadata(paths.trust),
        }


def explain_text(shown: dict[str, object]) -> str:
    """The explanation for people."""
    serving, answer = shown["serving"], shown["answer"]
    if not isinstance(serving, dict) or not isinstance(answer, dict):
        raise TypeError("expected what `explain` gives")
    active = shown["active_digest"]
    lines = [
        f"{shown['model']} runs {serving.get('version')} because: {serving.get('reason')}"
        if active
        else f"{shown['model']} has nothing installed"
    ]
    if answer:
        what = f"{answer['decision']} {answer.get('version', '')}".strip()
        lines.append(f"last signed answer ({_time(int(answer['at']))}): {what}: {answer['because']}")
        lines.append(f"what became of it: {answer['verdict']}; state {shown['state']}")
    else:
        lines.append("the director has not answered yet")
    if shown["failure"]:
        lines.append(f"failure: {shown['failure']}: {shown['detail']}")
    return "\n".join(lines)


def request_rollback(paths: StatePaths, config: Config, model: str) -> str:
    """Leave a request for the agent; returns a sentence."""
    if not paths.database.exists():
        raise ConfigError("expected a device that has run, got one without a journal")
    with assembly.stored(paths) as (journal, _, slots):
        if model not in {*config.models, *journal.deployments()}:
            raise ConfigError(f"expected one of {list(config.models)}, got {model!r}")
        links = slots.links(model)
        if not links.previous and not links.factory:
            raise ConfigError(f"expected an earlier version of {model} on this device, got none")
        journal.request(model)
    when = "now" if running(paths) else "when the agent is started"
    return f"{model} goes back to {(links.previous or links.factory)[:12]} {when}"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    good: bool
    detail: str


def examine(paths: StatePaths, config: Config) -> list[Finding]:
    """Look at everything that is known to keep devices from working."""
    return [
        _clock(paths),
        _disk(paths),
        _anchors(paths),
        _certificate(paths),
        _broker(paths, config),
        _runtimes(config),
    ]


def _clock(paths: StatePaths) -> Finding:
    floor = 0
    if paths.database.exists():
        with assembly.stored(paths) as (journal, _, _):
            floor = int(journal.recall(FLOOR_KEY) or 0)
    now = assembly.system_clock().now()
    return Finding("clock", now.timestamp() >= floor, f"{now.isoformat()}, last signed time {_time(floor) or 'never'}")


def _disk(paths: StatePaths) -> Finding:
    free = shutil.disk_usage(paths.root).free
    return Finding("disk", free >= LOW_DISK_BYTES, f"{free // 2**20} MiB free")


def _anchors(paths: StatePaths) -> Finding:
    from device_client.adapters import identity

    try:
        identity.load_anchors(identity.IdentityPaths(paths.identity))
    except DeviceError as error:
        return Finding("trust anchors", good=False, detail=str(error))
    return Finding("trust anchors", good=True, detail="complete")


def _certificate(paths: StatePaths) -> Finding:
    from device_client.adapters import identity

    try:
        validity = identity.certificate_validity(identity.IdentityPaths(paths.identity))
    except DeviceError as error:
        return Finding("certificate", good=False, detail=str(error))
    trouble = ""
    if paths.database.exists():
        with assembly.stored(paths) as (journal, _, _):
            trouble = journal.recall(RENEWAL_TROUBLE_KEY) or ""
    now = assembly.system_clock().now()
    when = "is due now" if now >= validity.renew_at else f"due {validity.renew_at.isoformat()}"
    detail = f"valid until {validity.not_after_at.isoformat()}, next renewal {when}"
    return Finding(
        "certificate",
        validity.not_after_at - now > EXPIRY_WARNING,
        f"{detail}; the last attempt failed: {trouble}" if trouble else detail,
    )


def _broker(paths: StatePaths, config: Config) -> Finding:
    from device_client.adapters import identity

    address = f"{config.broker_host}:{config.broker_port}"
    trouble = identity.check_connection(identity.IdentityPaths(paths.identity), config.broker_host, config.broker_port)
    return Finding("broker", trouble is None, trouble or f"{address} accepts this device's certificate")


def _runtimes(config: Config) -> Finding:
    found = assembly.installed_runtimes(config.intra_op_threads)
    shown = ", ".join(f"{name} {runtime.probe().version}" for name, runtime in found.items())
    return Finding("runtimes", bool(found), shown or "none installed: pip install 'modelfleet-device[onnx]'")


def findings_text(findings: list[Finding]) -> str:
    """The findings for people."""
    return "\n".join(f"{'ok  ' if item.good else 'BAD '} {item.what:<14} {item.detail}" for item in findings)
