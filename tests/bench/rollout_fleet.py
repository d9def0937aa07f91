"""A fleet of any size in an empty database, made with a few statements. Import it after Django was set up.

A few devices are enrolled as usual and then multiplied by `INSERT ... SELECT`, so that rows have whatever columns the
product gives them. Every tenth device cannot run the version.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import connection
from django.db.models import Model

from device_client.wire.messages import Check, CheckReason, RunningModel
from fleet.apps.devices import services as devices
from fleet.apps.devices.models import Device, DeviceModel
from tests.fakes.fleet_simulator import CAPABILITIES
from tests.server.catalogue import MODEL, Release

# Class and site of every tenth device.
PROTOTYPES: Final = (
    *(("edge-std", "a"), ("edge-std", "b"), ("edge-std", "a"), ("edge-std", "b"), ("edge-pro", "a")),
    *(("edge-pro", "b"), ("edge-pro", "a"), ("orin", "b"), ("orin", "a"), ("edge-old", "b")),
)
FIRST: Final = 10_000_000  # ids have as many digits, so that they sort like their numbers
FITTING: Final = {"edge-std", "edge-pro", "orin"}


def make_fleet(size: int, release: Release, now: datetime) -> None:
    """`size` active devices that run `release`, seen within the last hour."""
    for number, (hardware_class, site) in enumerate(PROTOTYPES):
        _enrol(f"proto-{number}", hardware_class, site, release, now)
    proto = f"'proto-' || (n.i % {len(PROTOTYPES)})"
    device_id = f"'dev-' || ({FIRST} + n.i)"
    _multiply(Device, size, {"id": device_id}, f"source.id = {proto}")
    _multiply(DeviceModel, size, {"device_id": device_id}, f"source.device_id = {proto}")
    Device.objects.filter(pk__startswith="proto-").delete()
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")


def device_ids(size: int) -> list[tuple[str, str]]:
    """The id and hardware class of every device that the version fits."""
    found = ((f"dev-{FIRST + i}", PROTOTYPES[i % len(PROTOTYPES)][0]) for i in range(size))
    return [item for item in found if item[1] in FITTING]


def _enrol(device_id: str, hardware_class: str, site: str, release: Release, now: datetime) -> None:
    devices.enrol(device_id=device_id, hardware_class=hardware_class, attributes={"site": site}, now=now)
    capabilities = CAPABILITIES if hardware_class in FITTING else replace(CAPABILITIES, runtimes={"tflite": "2.16"})
    running = RunningModel(
        MODEL, version=release.label, digest=release.digest, weights_sha256=release.weights_by_digest[release.digest]
    )
    check = Check(
        nonce="0" * 32,
        reason=CheckReason.PERIODIC,
        models=(running,),
        director_version=0,
        clock=int(now.timestamp()),
        capabilities=capabilities,
    )
    devices.record_check(device_id=device_id, check=check, now=now - timedelta(minutes=30))
    DeviceModel.objects.filter(device_id=device_id).update(
        active_version=release.label, active_digest=release.digest, weights_sha256=running.weights_sha256
    )


def _multiply(model: type[Model], size: int, changed: Mapping[str, str], source: str) -> None:
    """`size` copies of the prototypes' rows, with these columns computed from the number `n.i`."""
    table = model._meta.db_table
    fields: list[Any] = [item for item in model._meta.concrete_fields if item.column in changed or not item.primary_key]
    names = ", ".join(f'"{item.column}"' for item in fields)
    values = ", ".join(changed.get(item.column, f'source."{item.column}"') for item in fields)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} ({names}) WITH RECURSIVE n(i) AS "  # noqa: S608 - names of our own
            f"(SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {size}) "
            f"SELECT {values} FROM n JOIN {table} AS source ON {source}"
        )
