"""Writes what devices are and what they say. The caller has taken the device's id from an authenticated channel.

Replays and late messages change nothing: a report counts once by (boot, seq), and only a newer one moves the device's
present state. What a device says about itself never changes its hardware class, its state here or its attributes.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from django.db import transaction
from django.db.models import Q

from device_client.wire.bundles import encode_contract
from device_client.wire.messages import Check, RunningModel, StateReport
from device_client.wire.names import parse_device_id
from device_client.wire.states import UpdateState
from fleet.apps.additive import insert_new
from fleet.apps.devices.models import Device, DeviceEvent, DeviceModel, Group
from fleet.apps.devices.traffic import add_traffic
from fleet.domain.errors import ForbiddenError, InvalidInputError, NotFoundError

# In these states the device is on its way to `version`; in all others it has arrived or has given up.
_UPDATING = frozenset(
    {
        UpdateState.ASSIGNED,
        UpdateState.PREFLIGHT,
        UpdateState.DOWNLOADING,
        UpdateState.VERIFYING,
        UpdateState.STAGED,
        UpdateState.SELF_TESTING,
        UpdateState.ACTIVATING,
        UpdateState.PROBATION,
    }
)

# A check that is older than a report by more than this was not delayed: the device's clock was set back meanwhile.
MAX_CHECK_DELAY_S: Final = 900
_EVENT_KEY: Final = ("device_id", "boot", "seq")
# What a row says of the present: everything but whose it is.
_PRESENT: Final = [
    field.name
    for field in DeviceModel._meta.concrete_fields  # noqa: SLF001 - documented API
    if field.name not in {"id", "device", "model"}
]


@transaction.atomic
def enrol(*, device_id: str, hardware_class: str, attributes: Mapping[str, str], now: datetime) -> None:
    """Make a device known, or renew what is known of one that enrols again. A revoked id stays revoked."""
    row = Device.objects.select_for_update().filter(pk=device_id).first()
    if row is None:
        Device.objects.create(
            id=parse_device_id(device_id), hardware_class=hardware_class, attributes=dict(attributes), enrolled_at=now
        )
        return
    if row.state == Device.State.REVOKED:
        raise ForbiddenError("device_revoked", f"device {device_id} was revoked; enrol it under another id")
    row.hardware_class, row.attributes, row.enrolled_at = hardware_class, dict(attributes), now
    row.save(update_fields=["hardware_class", "attributes", "enrolled_at"])


def set_state(*, device_id: str, state: str, now: datetime) -> None:
    """Quarantine, revoke or readmit a device. Shutting it out of the broker is `trust`'s part."""
    if state not in Device.State.values:
        raise InvalidInputError("device_state", f"expected one of {', '.join(Device.State.values)}, got {state!r:.40}")
    changes: dict[str, object] = {"state": state}
    if state == Device.State.REVOKED:
        changes["online"] = False
    if not Device.objects.filter(pk=device_id).update(**changes):
        raise NotFoundError("device_unknown", f"no device {device_id!r:.80}, at {now.isoformat()}")


def require_active(*, device_id: str) -> None:
    """Raise `ForbiddenError` unless the device is active; within a transaction it stays so until the end of it."""
    row = Device.objects.select_for_update().filter(pk=device_id).first()
    if row is None or row.state != Device.State.ACTIVE:
        raise ForbiddenError("device_not_active", f"device {device_id!r:.80} is unknown, revoked or in quarantine")


@transaction.atomic
def record_check(*, device_id: str, check: Check, now: datetime) -> None:
    """Store what a device says in a check: its capabilities and, for each model, what it runs.

    Raises `ForbiddenError` for a device that is unknown, revoked or in quarantine; nothing of it is stored.
    """
    told = Device.objects.filter(pk=device_id, state=Device.State.ACTIVE).update(
        capabilities=check.capabilities.encode(),
        reported_attributes=dict(check.attributes),
        client_version=check.capabilities.client_version,
        online=True,
        last_check_at=now,
        last_seen_at=now,
    )
    if not told:
        raise ForbiddenError("device_not_active", f"device {device_id!r:.80} is unknown, revoked or in quarantine")
    rows = _locked({(device_id, running.model) for running in check.models}, now)
    for running in check.models:
        _apply_attestation(rows[device_id, running.model], running, check.clock, now)
    _store(rows.values())


def record_presence(*, device_id: str, online: bool, client_version: str, now: datetime) -> None:
    """Store that a device came or, by its last will, went. Going is not a sign of life."""
    changes: dict[str, object] = {"online": online}
    if online:
        changes["last_seen_at"] = now
        if client_version:
            changes["client_version"] = client_version
    Device.objects.filter(pk=device_id).update(**changes)


def touch(*, device_ids: Collection[str], now: datetime) -> None:
    """These devices gave a sign of life."""
    older = Q(last_seen_at__lt=now) | Q(last_seen_at=None)
    Device.objects.filter(older, pk__in=device_ids).update(last_seen_at=now, online=True)


@transaction.atomic
def record_states(
    *, reports: Sequence[tuple[str, StateReport]], weights: Mapping[str, str], now: datetime
) -> tuple[tuple[str, StateReport], ...]:
    """Add reports to their devices' timelines and move the devices' present states; returns those that were new.

    Reports of one boot are ordered by `seq`, whatever order they arrive in. A new boot is a new life of the device's
    outbox, which begins after the old one ended. `weights` names the weights file of each known digest, which a report
    does not; updates to digests that it does not name are nobody's traffic. Costs a constant number of statements. The devices must be known.
    """
    unique: dict[tuple[str, str, int], StateReport] = {}
    for device_id, report in reports:
        unique.setdefault((device_id, report.key.boot, report.key.seq), report)
    inserted = insert_new([_event(key[0], report, now) for key, report in unique.items()], key=_EVENT_KEY)
    boots = {(device_id, boot): place for place, (device_id, boot, _) in reversed(list(enumerate(unique)))}
    new = sorted(inserted, key=lambda key: (key[0], boots[key[0], key[1]], key[2]))
    rows = _locked({(key[0], unique[key].model) for key in new}, now)
    for key in new:
        row, report = rows[key[0], unique[key].model], unique[key]
        if row.boot != report.key.boot or report.key.seq > row.seq:
            _apply_report(row, report, weights, now)
    _store(rows.values())
    add_traffic([unique[key] for key in new], weights.keys())
    return tuple((key[0], unique[key]) for key in new)


@transaction.atomic
def set_group(*, name: str, device_ids: Sequence[str], now: datetime) -> int:
    """Make the group `name` exactly these devices; returns how many it holds. Unknown ids are refused."""
    wanted = set(device_ids)
    found = list(Device.objects.filter(pk__in=wanted))
    if missing := sorted(wanted - {row.pk for row in found}):
        raise NotFoundError("device_unknown", f"expected enrolled devices, got {len(missing)} unknown: {missing[:5]}")
    group, _ = Group.objects.get_or_create(name=name, defaults={"created_at": now})
    group.devices.set(found)
    return len(found)


def _locked(wanted: Collection[tuple[str, str]], now: datetime) -> dict[tuple[str, str], DeviceModel]:
    """The rows of these (device, model), made if they are new, and ours until the transaction ends."""
    rows = _lock(wanted)
    missing = sorted(set(wanted) - rows.keys())
    if not missing:
        return rows
    state = UpdateState.IDLE.value
    made = [DeviceModel(device_id=device_id, model=model, state=state, updated_at=now) for device_id, model in missing]
    DeviceModel.objects.bulk_create(made, ignore_conflicts=True)
    return _lock(wanted)


def _lock(wanted: Collection[tuple[str, str]]) -> dict[tuple[str, str], DeviceModel]:
    found = DeviceModel.objects.select_for_update().filter(
        device_id__in={device_id for device_id, _ in wanted}, model__in={model for _, model in wanted}
    )
    return {(row.device_id, row.model): row for row in found.order_by("pk") if (row.device_id, row.model) in wanted}


def _store(rows: Collection[DeviceModel]) -> None:
    """Write rows that exist and are locked, in one statement."""
    if rows:
        DeviceModel.objects.bulk_create(
            sorted(rows, key=lambda row: row.pk),
            update_conflicts=True,
            unique_fields=["device", "model"],
            update_fields=_PRESENT,
        )


def _event(device_id: str, report: StateReport, now: datetime) -> DeviceEvent:
    return DeviceEvent(
        device_id=device_id,
        boot=report.key.boot,
        seq=report.key.seq,
        at=_moment(report.at, now),
        received_at=now,
        model=report.model,
        version=report.version,
        rollout=report.rollout,
        state=report.state.value,
        report=json.loads(report.encode()),
    )


def _apply_attestation(row: DeviceModel, running: RunningModel, clock: int, now: datetime) -> None:
    """What a check says; where a report that the device made in that second or later was faster, it holds."""
    row.contract = None if running.contract is None else encode_contract(running.contract)
    row.denied = [{"digest": item.digest, "rollout": item.rollout} for item in running.denied]
    row.updated_at = now
    if row.reported_at is not None and 0 <= row.reported_at - clock <= MAX_CHECK_DELAY_S:
        return
    if row.active_digest != running.digest or row.active_since_at is None:
        row.active_since_at = now if running.digest else None
    row.active_version, row.active_digest = running.version, running.digest
    row.weights_sha256 = running.weights_sha256
    row.state, row.revision = running.state.value, running.revision


def _apply_report(row: DeviceModel, report: StateReport, weights: Mapping[str, str], now: datetime) -> None:
    if report.active_digest != row.active_digest:
        row.active_since_at = now if report.active_digest else None
        row.weights_sha256 = weights.get(report.active_digest, "")
    row.active_version, row.active_digest = report.active_version, report.active_digest
    row.target_version = report.version if report.state in _UPDATING else ""
    row.state, row.revision = report.state.value, report.revision
    row.failure = "" if report.failure is None else report.failure.value
    row.detail = report.detail
    row.boot, row.seq, row.reported_at = report.key.boot, report.key.seq, report.at
    row.updated_at = now


def _moment(seconds: int, now: datetime) -> datetime:
    """The device's clock as a datetime; one that no calendar holds counts as `now`."""
    try:
        return datetime.fromtimestamp(seconds, tz=UTC)
    except (OverflowError, ValueError, OSError):
        return now
