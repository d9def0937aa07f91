"""What a caller may do: scopes, and how a grant answers a request. Default deny.

A grant is a scope, optionally for one namespace only: `model:write`, `model:write:vision`. Every grant includes `read`
of the same reach, since whoever may change something may look at what came of it; `admin` includes everything.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from device_client.wire.errors import WireError
from device_client.wire.names import parse_namespace
from fleet.domain.errors import InvalidInputError


class Scope(StrEnum):
    """One thing that can be allowed."""

    READ = "read"
    MODEL_WRITE = "model:write"
    ROLLOUT_WRITE = "rollout:write"
    ROLLOUT_APPROVE = "rollout:approve"
    DEVICE_ENROL = "device:enrol"
    DEVICE_WRITE = "device:write"
    WEBHOOK_WRITE = "webhook:write"
    LABEL_WRITE = "label:write"
    TRUST_WRITE = "trust:write"
    ADMIN = "admin"


# Scopes of the whole installation: a namespace beside them would promise a border that does not exist.
_UNDIVIDED = {Scope.ADMIN, Scope.TRUST_WRITE, Scope.DEVICE_ENROL, Scope.DEVICE_WRITE}


@dataclass(frozen=True)
class Grant:
    """A scope within a namespace, or everywhere when `namespace` is None."""

    scope: Scope
    namespace: str | None = None

    def __str__(self) -> str:
        return self.scope.value if self.namespace is None else f"{self.scope.value}:{self.namespace}"

    @classmethod
    def parse(cls, text: str) -> "Grant":
        """Read `scope` or `scope:namespace`; raises InvalidInputError."""
        for scope in Scope:
            if text == scope.value:
                return cls(scope)
            if text.startswith(f"{scope.value}:") and scope not in _UNDIVIDED:
                try:
                    return cls(scope, parse_namespace(text.removeprefix(f"{scope.value}:")))
                except WireError as error:
                    raise InvalidInputError("scope_unknown", f"scope {text[:80]!r}: {error}") from error
        expected = ", ".join(scope.value for scope in Scope)
        raise InvalidInputError("scope_unknown", f"expected one of {expected}, got {text[:80]!r}")

    def covers(self, scope: Scope, namespace: str | None) -> bool:
        """Whether this grant allows `scope` in `namespace`; None asks for the whole installation.

        A grant for one namespace still allows reading what belongs to no namespace.
        """
        if self.scope is Scope.ADMIN:
            return True
        reaches = self.namespace is None or self.namespace == namespace
        if scope is Scope.READ:
            return reaches or namespace is None
        return self.scope is scope and reaches


def allows(grants: Iterable[Grant], scope: Scope, namespace: str | None) -> bool:
    """Whether any of the grants covers the request."""
    return any(grant.covers(scope, namespace) for grant in grants)
