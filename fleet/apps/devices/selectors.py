"""Reads devices. Every function costs a constant number of queries."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

from django.db.models import Case, Count, Exists, F, IntegerField, Max, Min, OuterRef, Q, QuerySet, Sum, Value, When
from django.db.models.fields.json import KeyTextTransform

from device_client.wire.bundles import parse_contract
from device_client.wire.errors import WireError
from device_client.wire.fields import Fields
from device_client.wire.messages import Capabilities
from fleet.apps.devices.bucketing import Segment
from fleet.apps.devices.filtering import Matches
from fleet.apps.devices.models import Device, DeviceEvent, DeviceModel, Group, UpdateTraffic
from fleet.apps.devices.records import (
    Claim,
    DeviceBrief,
    DeviceChoice,
    DeviceCount,
    DeviceModelRecord,
    DeviceRecord,
    EventRecord,
    FoundDevices,
    RunningCount,
    Tally,
    Traffic,
    WeightsGroup,
)
from fleet.domain.errors import NotFoundError

EVERY_DEVICE: Final = DeviceChoice()
SEARCHED: Final = 50_000  # devices a request looks through: a tenth of a second, also where conditions are dear
_GROUPED_BY: Final = ("runtimes", "precisions", "accelerators", "codecs", "max_opset", "max_ir_version")


def device(device_id: str) -> DeviceRecord:
    """One device; raises `NotFoundError`."""
    row = Device.objects.prefetch_related("models", "groups").filter(pk=device_id).first()
    if row is None:
        raise NotFoundError("device_unknown", f"no device {device_id!r:.80}")
    return _record(row)


def devices(*, choice: DeviceChoice = EVERY_DEVICE, after: str = "", limit: int = 100) -> tuple[DeviceRecord, ...]:
    """At most `limit` of the chosen devices after the id `after`, in order of id."""
    rows = _chosen(choice).order_by("pk").filter(pk__gt=after)
    return tuple(_record(row) for row in rows.prefetch_related("models", "groups")[:limit])


def search(*, choice: DeviceChoice, after: str = "", limit: int = 100) -> FoundDevices:
    """At most `limit` of the chosen devices after the id `after`, among the next `SEARCHED`: a rare one is not looked for
    in a whole fleet at once. So there may be fewer, or none, and more to look through.
    """
    through = Device.objects.order_by("pk").filter(pk__gt=after).values_list("pk", flat=True)[SEARCHED - 1 : SEARCHED]
    last = through.first() if choice != EVERY_DEVICE else None
    rows = _chosen(choice).order_by("pk").filter(pk__gt=after, **({} if last is None else {"pk__lte": last}))
    found = tuple(_record(row) for row in rows.prefetch_related("models", "groups")[: limit + 1])
    if len(found) > limit:
        return FoundDevices(found[:limit], found[limit - 1].id)
    return FoundDevices(found, last or "")


def count_devices(*, choice: DeviceChoice = EVERY_DEVICE) -> int:
    """How many devices are chosen."""
    return _chosen(choice).count()


def has_more_than(number: int, *, model: str) -> bool:
    """Whether more devices than this ask for `model`. Costs the same however many there are."""
    return DeviceModel.objects.filter(model=model)[: number + 1].count() > number


def tallies(*, choice: DeviceChoice, seed: str, edges: Sequence[int]) -> tuple[Tally, ...]:
    """The chosen devices, counted in one statement by class, capabilities and where their buckets under `seed` lie.

    Reads every chosen device's row: about two seconds for a million.
    """
    rows = (
        _chosen(choice)
        .order_by()
        .annotate(segment=Segment(seed, edges), told=_contract_column(choice))
        .values_list("hardware_class", "capabilities", "segment", "told")
        .annotate(n=Count("pk"), first=Min("pk"), last=Max("pk"))
    )
    return tuple(Tally(*row) for row in rows)


def placed(*, choice: DeviceChoice, seed: str, start: int, end: int, limit: int) -> tuple[tuple[str, str], ...]:
    """Id and hardware class of at most `limit` chosen devices whose buckets under `seed` lie in [start, end)."""
    if start >= end:
        return ()
    rows = _chosen(choice).annotate(segment=Segment(seed, (start, end))).filter(segment=1)
    return tuple(rows.order_by("pk").values_list("pk", "hardware_class")[:limit])


def one_by_one(*, choice: DeviceChoice, seed: str, edges: Sequence[int]) -> tuple[Tally, ...]:
    """The chosen devices as `tallies` has them, each alone. For a few."""
    rows = _chosen(choice).order_by("pk").annotate(segment=Segment(seed, edges), told=_contract_column(choice))
    return tuple(
        Tally(hardware_class, capabilities, segment, contract, 1, pk, pk)
        for pk, hardware_class, capabilities, segment, contract in rows.values_list(
            "pk", "hardware_class", "capabilities", "segment", "told"
        )
    )


def some_of(*, choice: DeviceChoice, beyond: DeviceChoice | None = None, limit: int) -> tuple[int, tuple[str, ...]]:
    """How many devices are chosen and not also chosen by `beyond`, which is narrower, and the first few of their ids."""
    rows = _chosen(choice).order_by("pk")
    if beyond is None:
        return rows.count(), tuple(rows.values_list("pk", flat=True)[:limit])
    number = rows.count() - _chosen(beyond).count()
    others = rows.filter(_is_not_among(_chosen(beyond))).values_list("pk", flat=True)
    return number, tuple(others[:limit]) if number else ()


def hardware_classes() -> tuple[str, ...]:
    """The classes that devices have, in order."""
    return tuple(Device.objects.order_by("hardware_class").values_list("hardware_class", flat=True).distinct())


def groups() -> Mapping[str, int]:
    """The names of all groups and how many devices each holds."""
    return dict(Group.objects.order_by("name").annotate(n=Count("devices")).values_list("name", "n"))


def briefs(device_ids: Collection[str]) -> Mapping[str, DeviceBrief]:
    """What consumers need to know of these devices; unknown ids are absent."""
    rows = list(
        Device.objects.filter(pk__in=device_ids).only(
            "hardware_class", "state", "attributes", "reported_attributes", "capabilities"
        )
    )
    member: dict[str, set[str]] = {}
    through = Group.devices.through.objects.filter(device_id__in=[row.pk for row in rows])
    for device_id, group in through.values_list("device_id", "group_id"):
        member.setdefault(device_id, set()).add(group)
    return {
        row.pk: DeviceBrief(
            id=row.pk,
            hardware_class=row.hardware_class,
            is_active=row.state == Device.State.ACTIVE,
            groups=frozenset(member.get(row.pk, ())),
            given=row.attributes,
            attributes={**row.reported_attributes, **row.attributes},
            told=row.capabilities,
        )
        for row in rows
    }


def device_counts(*, silent_since: datetime) -> tuple[DeviceCount, ...]:
    """All devices by class, state and connection. Reads every row."""
    rows = Device.objects.order_by("hardware_class", "state", "online").values_list("hardware_class", "state", "online")
    counted = rows.annotate(n=Count("pk"), silent=Count("pk", filter=_silent("last_seen_at", silent_since)))
    return tuple(DeviceCount(*row) for row in counted)


def running_counts(model: str, *, silent_since: datetime | None = None) -> tuple[RunningCount, ...]:
    """Active devices by the version that they attest for `model`, and hardware class."""
    online = Case(When(device__online=True, then=Value(1)), default=Value(0), output_field=IntegerField())
    silent = Q(pk__in=[]) if silent_since is None else _silent("device__last_seen_at", silent_since)
    rows = (
        DeviceModel.objects.filter(model=model, device__state=Device.State.ACTIVE)
        .values_list("active_version", "device__hardware_class")
        .annotate(n=Count("id"), online=Sum(online), silent=Count("id", filter=silent))
        .order_by("active_version", "device__hardware_class")
    )
    return tuple(
        RunningCount(version, hardware_class, n, up or 0, away) for version, hardware_class, n, up, away in rows
    )


def attesting(model: str, version: str) -> int:
    """How many active devices attest a version of `model`. Costs next to nothing where none does."""
    rows = DeviceModel.objects.filter(model=model, active_version=version)
    # Asked first without the join, by which databases have chosen to read every device.
    return rows.filter(device__state=Device.State.ACTIVE).count() if rows.exists() else 0


def weights_in_use() -> frozenset[str]:
    """Every weights file that an active device runs, of whatever model."""
    rows = DeviceModel.objects.filter(device__state=Device.State.ACTIVE).exclude(weights_sha256="")
    return frozenset(rows.values_list("weights_sha256", flat=True).distinct())


def weights_groups(model: str) -> Iterator[WeightsGroup]:
    """Active devices that run a weights file of `model`, grouped by that file and by what decides what they would get next.

    Memory and disk are not told apart: there would be as many groups as devices. One statement; devices that described
    themselves in no way that can be read can apply nothing.
    """
    told = {name: KeyTextTransform(name, "device__capabilities") for name in _GROUPED_BY}
    rows = (
        DeviceModel.objects.filter(model=model, device__state=Device.State.ACTIVE)
        .exclude(weights_sha256="")
        .annotate(**told)
        .values_list("weights_sha256", "device__hardware_class", "contract", *_GROUPED_BY)
        .annotate(n=Count("id"))
        .order_by("weights_sha256")
    )
    for weights_sha256, hardware_class, contract, *values, count in rows.iterator(chunk_size=2_000):
        capabilities = _read_capabilities(dict(zip(_GROUPED_BY, values, strict=True)))
        yield WeightsGroup(weights_sha256, hardware_class, capabilities, contract and parse_contract(contract), count)


def attested(model: str, device_ids: Collection[str]) -> Mapping[str, DeviceModelRecord]:
    """What these devices last attested for `model`; those that never did are absent."""
    rows = DeviceModel.objects.filter(model=model, device_id__in=device_ids)
    return {row.device_id: _model_record(row) for row in rows}


def timeline(device_id: str, limit: int = 100) -> tuple[EventRecord, ...]:
    """The newest reports of a device, newest first."""
    rows = DeviceEvent.objects.filter(device_id=device_id).order_by("-received_at", "-seq")[:limit]
    return tuple(_event(row) for row in rows)


def rollout_events(rollout: str, limit: int = 500) -> tuple[tuple[str, EventRecord], ...]:
    """The newest reports about one rollout, each with its device's id."""
    rows = DeviceEvent.objects.filter(rollout=rollout).order_by("-received_at", "-seq")[:limit]
    return tuple((row.device_id, _event(row)) for row in rows)


def traffic(digests: Collection[str] | None = None) -> tuple[Traffic, ...]:
    """What ended updates to these variants, or to any, took over the network."""
    rows = UpdateTraffic.objects.order_by("digest", "transport", "codec")
    if digests is not None:
        rows = rows.filter(digest__in=digests)
    return tuple(
        Traffic(
            digest=row.digest,
            transport=row.transport,
            codec=row.codec,
            updates=row.updates,
            failed=row.failed,
            fallbacks=row.fallbacks,
            bytes_received=row.bytes_received,
            bytes_total=row.bytes_total,
        )
        for row in rows
    )


def _chosen(choice: DeviceChoice) -> QuerySet[Device]:
    rows = _described(choice)
    if choice.model and choice.version is not None:
        rows = rows.filter(models__model=choice.model, models__active_version=choice.version)
    elif choice.model:
        rows = rows.filter(models__model=choice.model)
    if choice.online is not None:
        rows = rows.filter(online=choice.online)
    if choice.silent_since is not None:
        rows = rows.filter(_silent("last_seen_at", choice.silent_since))
    if choice.seen_since is not None:
        rows = rows.filter(last_seen_at__gte=choice.seen_since)
    return rows


def _described(choice: DeviceChoice) -> QuerySet[Device]:
    """The conditions on what a device is, not on what it runs or when it was heard of."""
    rows = Device.objects.all()
    classes = ((choice.hardware_class,) if choice.hardware_class else (), choice.hardware_classes)
    groups = ((choice.group,) if choice.group else (), choice.groups)
    for names in filter(None, classes):
        rows = rows.filter(hardware_class__in=names)
    for names in filter(None, groups):
        members = Group.devices.through.objects.filter(group_id__in=names)
        rows = rows.filter(pk__in=members.values("device_id"))
    if choice.state:
        rows = rows.filter(state=choice.state)
    if choice.search:
        rows = rows.filter(pk__contains=choice.search)
    if choice.ids:
        rows = rows.filter(pk__in=choice.ids)
    if choice.not_ids:
        rows = rows.exclude(pk__in=choice.not_ids)
    if choice.not_groups:
        members = Group.devices.through.objects.filter(group_id__in=choice.not_groups)
        rows = rows.filter(~Exists(members.filter(device_id=OuterRef("pk"))))
    for claim in choice.unclaimed_by:
        rows = rows.filter(_is_not_among(_claimed(claim)))
    if choice.filter is not None:
        rows = rows.filter(Matches(choice.filter))
    return rows


def _is_not_among(rows: QuerySet[Device]) -> Q:
    """Not `NOT IN`: with more ids than fit into its memory, PostgreSQL asks the list anew for each device."""
    return Q(~Exists(rows.order_by().filter(pk=OuterRef("pk"))))


def _claimed(claim: Claim) -> QuerySet[Device]:
    """The devices whose place under the claim's seed is in one of its ranges, or that it names."""
    spans = sorted({edge for _, start, end in claim.spans for edge in (start, end)})
    rows = _described(claim.choice).annotate(claimed=Segment(claim.seed, spans))
    inside = Q(pk__in=claim.ids)
    for hardware_class, start, end in claim.spans:
        if start < end:
            # A bucket is in [start, end) if the edge `start` is at or below it and the edge `end` is not.
            within = Q(claimed__gte=spans.index(start) + 1, claimed__lte=spans.index(end))
            of_class = Q(hardware_class=hardware_class) if hardware_class else ~Q(hardware_class__in=claim.classes)
            inside |= within & of_class
    return rows.filter(inside)


def _contract_column(choice: DeviceChoice) -> Value | F:
    """What the application of the chosen model expects, which variants have to keep."""
    return F("models__contract") if choice.model else Value("")


def _read_capabilities(told: Mapping[str, object]) -> Capabilities:
    """What the database gave as text for each of these keys; a key without a value was never told."""
    try:
        fields = {name: json.loads(str(value)) for name, value in told.items() if value is not None}
        return Capabilities.parse(Fields(fields, "capabilities"))
    except (WireError, ValueError):
        return Capabilities()


def _silent(column: str, since: datetime) -> Q:
    """No sign of life since a moment, or never any."""
    return Q(**{f"{column}__lt": since}) | Q(**{f"{column}__isnull": True})


def _record(row: Device) -> DeviceRecord:
    return DeviceRecord(
        id=row.pk,
        state=row.state,
        hardware_class=row.hardware_class,
        attributes={**row.reported_attributes, **row.attributes},
        capabilities=row.capabilities,
        client_version=row.client_version,
        online=row.online,
        enrolled_at=row.enrolled_at,
        last_check_at=row.last_check_at,
        last_seen_at=row.last_seen_at,
        groups=tuple(sorted(group.pk for group in row.groups.all())),
        models=tuple(_model_record(item) for item in sorted(row.models.all(), key=lambda item: item.model)),
    )


def _model_record(row: DeviceModel) -> DeviceModelRecord:
    return DeviceModelRecord(
        model=row.model,
        active_version=row.active_version,
        active_digest=row.active_digest,
        weights_sha256=row.weights_sha256,
        target_version=row.target_version,
        state=row.state,
        failure=row.failure,
        detail=row.detail,
        revision=row.revision,
        active_since_at=row.active_since_at,
        updated_at=row.updated_at,
    )


def _event(row: DeviceEvent) -> EventRecord:
    return EventRecord(
        at=row.at,
        received_at=row.received_at,
        model=row.model,
        version=row.version,
        rollout=row.rollout,
        state=row.state,
        report=row.report,
    )
