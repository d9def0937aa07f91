"""API tokens: `mf_<prefix>_<secret>`, shown once, kept as a hash, scoped, expiring, revocable."""

import hashlib
import secrets
from collections.abc import Collection
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

from django.db import OperationalError, connection, transaction

from fleet.apps.audit import services as audit
from fleet.apps.trust import selectors
from fleet.apps.trust.models import ApiToken
from fleet.apps.trust.records import TokenRecord
from fleet.domain import scopes
from fleet.domain.errors import InvalidInputError, NotFoundError

MARK: Final = "mf"
MAX_LIFETIME: Final = timedelta(days=366)
MAX_NAME_CHARS: Final = 128
# A busy pipeline must not write a row with every request.
LAST_USED_RESOLUTION: Final = timedelta(minutes=1)


def issue_token(
    *, name: str, granted: Collection[str], expires_in_s: float, actor: str, now: datetime, owner: str = ""
) -> tuple[TokenRecord, str]:
    """Make a token with the `granted` scopes; returns its record and the secret, which is not kept.

    `owner` is the identity of the person it speaks for. Without one it approves nothing.
    """
    lifetime = timedelta(seconds=expires_in_s)
    if not timedelta(0) < lifetime <= MAX_LIFETIME:
        raise InvalidInputError("token_lifetime", f"expected more than 0 and at most {MAX_LIFETIME.days} days")
    if not 0 < len(name) <= MAX_NAME_CHARS:
        raise InvalidInputError("token_name", f"expected a name of 1 to {MAX_NAME_CHARS} characters, got {len(name)}")
    parsed = sorted({str(scopes.Grant.parse(text)) for text in granted})
    if not parsed:
        raise InvalidInputError("token_scopes", "expected at least one scope, got none")
    prefix = secrets.token_hex(4)
    token = f"{MARK}_{prefix}_{secrets.token_urlsafe(32)}"
    with transaction.atomic():
        row = ApiToken.objects.create(
            prefix=prefix,
            token_sha256=_digest(token),
            name=name,
            scopes=parsed,
            owner=owner,
            created_by=actor,
            created_at=now,
            expires_at=now + lifetime,
        )
        audit.record(
            actor=actor,
            action="token.issue",
            subject=prefix,
            detail={"name": name, "scopes": parsed, "owner": owner},
            now=now,
        )
    return selectors.token_record(row), token


def authenticate_token(*, token: str, now: datetime) -> TokenRecord | None:
    """The record of a valid token, or None for one that is unknown, expired or revoked."""
    if not token.startswith(f"{MARK}_") or len(token) > MAX_NAME_CHARS:
        return None
    row = ApiToken.objects.filter(token_sha256=_digest(token), expires_at__gt=now, revoked_at__isnull=True).first()
    if row is None:
        return None
    if row.last_used_at is None or row.last_used_at < now - LAST_USED_RESOLUTION:
        _note_use(row, now)
    return selectors.token_record(row)


def _note_use(row: ApiToken, now: datetime) -> None:
    """Store when a token was last used, if nobody else writes right now: no reader waits in a writer's queue for that."""
    if connection.vendor != "sqlite":
        with transaction.atomic():
            if ApiToken.objects.select_for_update(skip_locked=True).filter(pk=row.pk).exists():
                ApiToken.objects.filter(pk=row.pk).update(last_used_at=now)
        return
    # SQLite has one writer for the whole file, and a connection says how long it waits for its turn.
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout")
        (patience_ms,) = cursor.fetchone()
        cursor.execute("PRAGMA busy_timeout = 0")
        try:
            with suppress(OperationalError):
                ApiToken.objects.filter(pk=row.pk).update(last_used_at=now)
        finally:
            cursor.execute(f"PRAGMA busy_timeout = {int(patience_ms)}")


def revoke_token(*, token_id: int, actor: str, now: datetime) -> None:
    """End a token's life; doing so twice is no error."""
    with transaction.atomic():
        row = ApiToken.objects.filter(pk=token_id).first()
        if row is None:
            raise NotFoundError("token_not_found", f"expected an existing token, got {token_id}")
        if row.revoked_at is None:
            ApiToken.objects.filter(pk=token_id).update(revoked_at=now)
            audit.record(actor=actor, action="token.revoke", subject=row.prefix, detail={"name": row.name}, now=now)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
