"""Namespaces, models and aliases."""

import re
from collections.abc import Callable
from datetime import datetime
from typing import Final

from django.db import IntegrityError, transaction

from device_client.wire.errors import WireError
from device_client.wire.names import HEX_ID, parse_model, parse_namespace
from fleet.apps.audit import services as audit
from fleet.apps.registry import selectors
from fleet.apps.registry.models import Alias, Model, Namespace
from fleet.apps.registry.records import AliasRecord, ModelRecord, NamespaceRecord, VersionState
from fleet.domain.approvals import MAX_APPROVALS
from fleet.domain.errors import ConflictError, InvalidInputError, NotFoundError
from fleet.domain.quiet import QuietHours
from fleet.domain.repository import Profile

ALIAS: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}")
MAX_DESCRIPTION_CHARS: Final = 512


def create_namespace(*, name: str, profile: str, actor: str, now: datetime) -> NamespaceRecord:
    """Make a namespace; raises ConflictError if it exists."""
    _parse(parse_namespace, name, "namespace_name")
    if profile not in Profile._value2member_map_:
        raise InvalidInputError(
            "namespace_profile", f"expected one of {[p.value for p in Profile]}, got {profile[:40]!r}"
        )
    try:
        with transaction.atomic():
            row = Namespace.objects.create(name=name, profile=profile, created_at=now)
            audit.record(actor=actor, action="namespace.create", subject=name, detail={"profile": profile}, now=now)
    except IntegrityError as error:
        raise ConflictError("namespace_exists", f"expected a new namespace, got {name!r}, which exists") from error
    return selectors.namespace_record(row)


def set_namespace(
    *, name: str, actor: str, now: datetime, approvals: int | None = None, quiet_hours: object = None
) -> NamespaceRecord:
    """Set the rules of a namespace; what is None stays as it is.

    `approvals`: how many other people have to approve each rollout, at least; those that wait keep their number.
    `quiet_hours`: as `domain.quiet` reads them; they hold from the conductor's next look on.
    """
    if approvals is not None and not 0 <= approvals <= MAX_APPROVALS:
        raise InvalidInputError("namespace_approvals", f"expected 0 to {MAX_APPROVALS} approvals, got {approvals}")
    quiet = None if quiet_hours is None else QuietHours.parse(quiet_hours)
    with transaction.atomic():
        row = Namespace.objects.select_for_update().filter(pk=name).first()
        if row is None:
            raise NotFoundError("namespace_not_found", f"expected an existing namespace, got {name!r:.40}")
        changed: dict[str, object] = {}
        if approvals is not None:
            row.approvals = changed["approvals"] = approvals
        if quiet is not None:
            row.quiet_hours = quiet.encode()
            changed["quiet_hours"] = list(quiet.words)
        row.save(update_fields=["approvals", "quiet_hours"])
        audit.record(actor=actor, action="namespace.set", subject=name, detail=changed, now=now)
    return selectors.namespace_record(row)


def create_model(*, name: str, description: str, plan_key: str, actor: str, now: datetime) -> ModelRecord:
    """Make a model in an existing namespace; `plan_key` is a fresh random hexadecimal id. Raises ConflictError."""
    _parse(parse_model, name, "model_name")
    if HEX_ID.fullmatch(plan_key) is None or len(description) > MAX_DESCRIPTION_CHARS:
        raise InvalidInputError("model_description", f"expected at most {MAX_DESCRIPTION_CHARS} characters")
    namespace = name.partition(".")[0]
    if not Namespace.objects.filter(pk=namespace).exists():
        raise NotFoundError("namespace_not_found", f"expected an existing namespace, got {namespace!r}")
    try:
        with transaction.atomic():
            Model.objects.create(
                name=name, namespace_id=namespace, plan_key=plan_key, description=description, created_at=now
            )
            audit.record(actor=actor, action="model.create", subject=name, detail={}, now=now)
    except IntegrityError as error:
        raise ConflictError("model_exists", f"expected a new model, got {name!r}, which exists") from error
    return selectors.model(name)


def set_alias(*, model: str, name: str, version: str, actor: str, now: datetime) -> AliasRecord:
    """Point an alias at a published version, or at the one that another alias names now, making it if need be."""
    if ALIAS.fullmatch(name) is None:
        raise InvalidInputError("alias_name", f"expected an alias matching {ALIAS.pattern}, got {name[:80]!r}")
    with transaction.atomic():
        target = selectors.resolve(model, version)
        if target.state is not VersionState.PUBLISHED:
            raise ConflictError("version_not_published", f"expected a published version, got one {target.state}")
        row, _created = Alias.objects.update_or_create(
            model_id=model, name=name, defaults={"version_id": target.id, "updated_at": now}
        )
        audit.record(
            actor=actor, action="alias.set", subject=f"{model}:{name}", detail={"version": target.label}, now=now
        )
    return selectors.alias_record(row)


def delete_alias(*, model: str, name: str, actor: str, now: datetime) -> None:
    """Remove an alias; raises NotFoundError."""
    with transaction.atomic():
        deleted, _ = Alias.objects.filter(model_id=model, name=name).delete()
        if not deleted:
            raise NotFoundError("alias_not_found", f"expected an existing alias of {model}, got {name[:80]!r}")
        audit.record(actor=actor, action="alias.delete", subject=f"{model}:{name}", detail={}, now=now)


def _parse(parse: Callable[[object], str], value: str, code: str) -> None:
    try:
        parse(value)
    except WireError as error:
        raise InvalidInputError(code, str(error)) from error
