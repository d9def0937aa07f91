"""Signs what the director says to one device. The key stays in the signer; assignment policy is decided elsewhere.

A device's director version only ever rises, and is at least the time in seconds, so that a restored database does not
make the fleet refuse its director.
"""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

from django.db import transaction
from tuf.api.metadata import Root

from device_client.wire.director import Binding
from device_client.wire.names import device_target
from fleet.apps.trust import selectors
from fleet.apps.trust.models import DirectorHead
from fleet.apps.trust.records import DirectorTarget, Repository
from fleet.domain import repository as roles
from fleet.domain.errors import UnavailableError
from fleet.ports.signer import MetadataSigner

_EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()


def sign_director_bundle(
    *,
    device_id: str,
    binding: Binding,
    targets: Iterable[DirectorTarget],
    signer: MetadataSigner,
    now: datetime,
) -> Mapping[str, str]:
    """The director's metadata for one device, by file name; `binding` carries the nonce that the device sent.

    Raises UnavailableError until roots are imported.
    """
    chain = selectors.roots(Repository.DIRECTOR)
    if not chain:
        raise UnavailableError("trust_not_set_up", "expected an imported director root, got none")
    version = _next_version(device_id, now)
    named = [roles.NamedTarget(device_target(device_id), 0, _EMPTY_SHA256, binding.encode())]
    named += [roles.NamedTarget(target.path, target.length, target.sha256, target.custom) for target in targets]
    snapshot = roles.snapshot({"targets": version}, version=version, now=now)
    # Newer roots only: a device has version 1 from its enrolment.
    files = {f"{record.version}.{Root.type}.json": record.payload for record in chain if record.version > 1}
    files["timestamp.json"] = roles.signed(roles.timestamp(version, version=version, now=now), [signer])
    files[f"{version}.snapshot.json"] = roles.signed(snapshot, [signer])
    files[f"{version}.targets.json"] = roles.signed(roles.director_targets(named, version=version, now=now), [signer])
    return {name: content.decode() for name, content in files.items()}


def _next_version(device_id: str, now: datetime) -> int:
    floor = int(now.timestamp())
    with transaction.atomic():
        DirectorHead.objects.get_or_create(device_id=device_id, defaults={"version": 0, "issued_at": now})
        head = DirectorHead.objects.select_for_update().get(device_id=device_id)
        head.version = max(head.version + 1, floor)
        head.issued_at = now
        head.save(update_fields=["version", "issued_at"])
    return head.version
