"""Composes what must happen together when a device keeps or loses its membership: record, certificates, broker."""

from datetime import datetime

from django.db import transaction

from fleet.apps.devices import services as devices
from fleet.apps.trust import services as trust
from fleet.apps.trust.records import Renewal
from fleet.wiring import installation


def revoke_device(*, device_id: str, actor: str, now: datetime) -> None:
    """Revoke a device for good. The database decides; the broker's lists follow from it and are complete each time."""
    with transaction.atomic():
        devices.set_state(device_id=device_id, state="revoked", now=now)
        trust.revoke_device(device_id=device_id, actor=actor, now=now)
    installation.shut_out_revoked(now)


def renew_certificate(*, csr_der: bytes, now: datetime) -> Renewal:
    """A further certificate for an active device; one that is being revoked at this moment gets none."""
    return trust.renew_certificate(
        csr_der=csr_der,
        authority=installation.device_authority(),
        admit=lambda device_id: devices.require_active(device_id=device_id),
        now=now,
    )
