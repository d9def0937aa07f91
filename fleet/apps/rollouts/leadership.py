"""Who conducts: one lease row per process kind, with a fencing token that every write of the holder is checked against.

A holder that was paused longer than its lease finds its token outdated inside the very transaction that it wanted to
write in, and writes nothing.
"""

from datetime import datetime, timedelta
from typing import Final

from django.db import IntegrityError, transaction

from fleet.apps.rollouts.models import Lease
from fleet.domain.errors import ConflictError

CONDUCTOR: Final = "conductor"
LEASE_S: Final = 15.0
LOST: Final = "lease_lost"


def acquire(*, name: str, holder: str, now: datetime) -> int | None:
    """The fencing token if `holder` leads from now on, else None. Renewing keeps the token; taking over raises it."""
    expires_at = now + timedelta(seconds=LEASE_S)
    try:
        with transaction.atomic():
            row = Lease.objects.select_for_update().filter(pk=name).first()
            if row is None:
                Lease.objects.create(name=name, holder=holder, token=1, expires_at=expires_at)
                return 1
            if row.holder != holder:
                if row.expires_at > now:
                    return None
                row.holder, row.token = holder, row.token + 1
            elif row.expires_at <= now:
                row.token += 1
            elif now < row.expires_at - timedelta(seconds=LEASE_S):
                pass  # the clock went back: nobody else could take over before it has come so far again
            elif row.expires_at - now > timedelta(seconds=LEASE_S / 2):
                return row.token
            row.expires_at = expires_at
            row.save()
            return row.token
    except IntegrityError:
        return None


def note_jump(*, name: str, now: datetime) -> None:
    """The leader saw the server's clock jump."""
    Lease.objects.filter(pk=name).update(jumped_at=now)


def jumped_at(*, name: str) -> datetime | None:
    """When a leader last saw the server's clock jump."""
    return Lease.objects.filter(pk=name).values_list("jumped_at", flat=True).first()


def release(*, name: str, holder: str, now: datetime) -> None:
    """Let another take over at once."""
    Lease.objects.filter(pk=name, holder=holder, expires_at__gt=now).update(expires_at=now)


def require(*, name: str, token: int, now: datetime) -> None:
    """Inside a transaction: raise `ConflictError` unless `token` still leads, and keep it so until the commit."""
    row = Lease.objects.select_for_update().filter(pk=name).first()
    if row is None or row.token != token or row.expires_at <= now:
        got = "nobody" if row is None else f"token {row.token} until {row.expires_at.isoformat(timespec='seconds')}"
        raise ConflictError(LOST, f"expected to lead with token {token}, found {got}")
