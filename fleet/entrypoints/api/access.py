"""Who calls, and what that caller may do. Tokens for pipelines, sessions for people; default deny.

A view states one scope a method; a method without one serves nobody. Where the model is part of the address, the scope
is asked for in its namespace; where it is part of the body, the view asks again once it has read it (`require`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from rest_framework.authentication import BaseAuthentication, SessionAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed, MethodNotAllowed
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView

from fleet.apps.trust import services as trust
from fleet.domain.approvals import person
from fleet.domain.errors import ForbiddenError
from fleet.domain.scopes import Grant, Scope, allows
from fleet.wiring import server

READER_GRANTS: Final = (Grant(Scope.READ),)
# People who operate the fleet; only superusers touch keys and tokens.
STAFF_GRANTS: Final = tuple(
    Grant(scope)
    for scope in (
        Scope.READ,
        Scope.MODEL_WRITE,
        Scope.ROLLOUT_WRITE,
        Scope.ROLLOUT_APPROVE,
        Scope.DEVICE_ENROL,
        Scope.DEVICE_WRITE,
        Scope.LABEL_WRITE,
    )
)
ADMIN_GRANTS: Final = (Grant(Scope.ADMIN),)


@dataclass(frozen=True)
class Principal:
    """An authenticated caller. `actor` is how the audit log names it; `identity` is the same for all sessions and tokens
    of one person, and empty for a token of which nobody said whose it is.
    """

    actor: str
    identity: str
    name: str
    kind: str
    grants: tuple[Grant, ...]
    # Django and DRF ask these of whoever a request belongs to.
    is_authenticated: ClassVar[bool] = True
    is_active: ClassVar[bool] = True

    def may(self, scope: Scope, namespace: str | None) -> bool:
        """Whether this caller has the scope there."""
        return allows(self.grants, scope, namespace)

    def may_anywhere(self, scope: Scope) -> bool:
        """Whether this caller has the scope in some namespace at least."""
        return any(grant.covers(scope, grant.namespace) for grant in self.grants)


def require_everything(principal: Principal) -> None:
    """Raise ForbiddenError for a caller whose reach ends at a namespace: what is asked for mixes all of them."""
    if all(grant.namespace is not None for grant in principal.grants):
        raise ForbiddenError("scope_missing", "expected a caller who may read every namespace, or a model to be named")


class TokenAuthentication(BaseAuthentication):
    """`Authorization: Bearer mf_...`."""

    def authenticate(self, request: Request) -> tuple[Principal, None] | None:
        """The token's owner; None without a token, AuthenticationFailed for one that is not valid."""
        words = get_authorization_header(request).split()
        if not words or words[0].lower() != b"bearer":
            return None
        text = words[1].decode("latin-1") if len(words) == 2 else ""  # noqa: PLR2004 - scheme and token
        record = trust.authenticate_token(token=text, now=server.clock().now())
        if record is None:
            raise AuthenticationFailed("expected a valid token, got one that is unknown, expired or revoked")
        grants = tuple(Grant.parse(scope) for scope in record.scopes)
        actor = f"token:{record.name[:100]}/{record.prefix}"
        return Principal(actor, record.owner, record.name, "token", grants), None

    def authenticate_header(self, request: Request) -> str:  # noqa: ARG002 - the base class's signature
        """What a 401 says about how to come in."""
        return 'Bearer realm="modelfleet"'


class PersonAuthentication(SessionAuthentication):
    """A person's session, with CSRF protection."""

    def authenticate(self, request: Request) -> tuple[Any, None] | None:
        """The person who is logged in, or None."""
        found = super().authenticate(request)
        return None if found is None else (principal_of_person(found[0]), None)


def principal_of_person(user: AbstractBaseUser | AnonymousUser) -> Principal:
    """What a person may do: superusers everything, staff operate, everybody else who is logged in reads."""
    name = user.get_username()
    if getattr(user, "is_superuser", False):
        grants: tuple[Grant, ...] = ADMIN_GRANTS
    elif getattr(user, "is_staff", False):
        grants = STAFF_GRANTS
    else:
        grants = READER_GRANTS
    return Principal(f"user:{name}"[:128], person(user.pk), name, "user", grants)


class HasScope(BasePermission):
    """Lets a request through if the view names a scope for its method and the caller has it."""

    message = "expected a caller with the right scope, got one without it"

    def has_permission(self, request: Request, view: APIView) -> bool:
        """Default deny; raises MethodNotAllowed for a method that serves nobody, so that nobody looks for a scope."""
        principal: object = request.user
        scopes: Mapping[str, Scope] = getattr(view, "scopes", {})
        scope = scopes.get("GET" if request.method == "HEAD" else request.method or "")
        if not isinstance(principal, Principal):
            return False
        if scope is None:
            raise MethodNotAllowed(request.method or "")
        if "model" in view.kwargs:
            return principal.may(scope, namespace_of(view.kwargs["model"]))
        return (
            principal.may_anywhere(scope) if getattr(view, "names_model_later", False) else principal.may(scope, None)
        )


def namespace_of(model: str) -> str:
    """The namespace of a model's name."""
    return model.partition(".")[0]


def require(principal: Principal, scope: Scope, model: str) -> None:
    """Raise ForbiddenError unless the caller has the scope in this model's namespace."""
    if not principal.may(scope, namespace_of(model)):
        raise ForbiddenError(
            "scope_missing", f"expected scope {scope.value} in namespace {namespace_of(model)[:40]}, got none"
        )


def require_emergency(principal: Principal) -> None:
    """Raise ForbiddenError unless this caller may approve alone and at once."""
    if not principal.may(Scope.ADMIN, None):
        raise ForbiddenError("scope_missing", "expected scope admin for an emergency approval, got none")
