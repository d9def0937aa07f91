"""Default deny, one table."""

import pytest

from fleet.domain.errors import InvalidInputError
from fleet.domain.scopes import Grant, Scope, allows


@pytest.mark.parametrize(
    ("granted", "scope", "namespace", "allowed"),
    [
        ("read", Scope.READ, "vision", True),
        ("read", Scope.READ, None, True),
        ("read", Scope.MODEL_WRITE, "vision", False),
        ("read:vision", Scope.READ, "vision", True),
        ("read:vision", Scope.READ, "audio", False),
        ("read:vision", Scope.READ, None, True),
        ("model:write:vision", Scope.MODEL_WRITE, "vision", True),
        ("model:write:vision", Scope.READ, "vision", True),
        ("model:write:vision", Scope.MODEL_WRITE, "audio", False),
        ("model:write:vision", Scope.MODEL_WRITE, None, False),
        ("model:write:vision", Scope.ROLLOUT_WRITE, "vision", False),
        ("model:write", Scope.MODEL_WRITE, "audio", True),
        ("rollout:write", Scope.TRUST_WRITE, None, False),
        ("trust:write", Scope.TRUST_WRITE, None, True),
        ("device:enrol", Scope.DEVICE_WRITE, None, False),
        ("admin", Scope.TRUST_WRITE, None, True),
        ("admin", Scope.MODEL_WRITE, "vision", True),
        ("trust:write", Scope.ADMIN, None, False),
    ],
)
def test_grant__request__answered(granted: str, scope: Scope, namespace: str | None, *, allowed: bool) -> None:
    assert allows([Grant.parse(granted)], scope, namespace) is allowed


def test_no_grant__anything__denied() -> None:
    assert not any(allows([], scope, None) for scope in Scope)


@pytest.mark.parametrize("scope", list(Scope))
def test_grant__written_and_read__same(scope: Scope) -> None:
    assert Grant.parse(str(Grant(scope))) == Grant(scope)


@pytest.mark.parametrize("text", ["", "READ", "read:", "read:UPPER", "model", "admin:vision", "trust:write:vision"])
def test_grant__of_another_form__refused(text: str) -> None:
    with pytest.raises(InvalidInputError):
        Grant.parse(text)
