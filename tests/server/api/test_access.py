"""Every address and method, without credentials and with too little: default deny, and always a problem document."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client
from django.urls import URLPattern, get_resolver

from fleet.apps.trust import services as trust
from fleet.domain.scopes import Scope
from fleet.entrypoints.api import urls
from tests.server.api.conftest import Caller

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
PUBLIC = {"schema", "no-such-address"}
EXAMPLES = {
    "namespace": "vision",
    "model": "vision.digits",
    "version": "1",
    "alias": "champion",
    "sha256": "a" * 64,
    "rollout": "r-0a1b2c3d4e5f",
    "experiment": "e-0a1b2c3d4e5f",
    "device": "cam-0001",
    "group": "first",
    "token_id": "1",
    "webhook_id": "1",
    "delivery_id": "1",
    "action": "pause",
    "repository": "image",
}
OWN = {"experiment_action": "stop"}
CHANGING = {"POST", "PUT", "PATCH", "DELETE"}
# A dry run stores nothing, so that who may look may also ask what would happen.
READING_POSTS = {"plan"}


def addresses() -> Iterator[tuple[str, str]]:
    """(name, an example of the address) of every route."""
    for pattern in urls.urlpatterns:
        assert isinstance(pattern, URLPattern)
        if pattern.name not in PUBLIC:
            text = str(pattern.pattern)
            yield (
                str(pattern.name),
                "/" + re.sub(r"<(\w+):(\w+)>", lambda match: OWN.get(match[1]) or EXAMPLES[match[2]], text),
            )


def is_problem(answer: Any, status: int) -> bool:
    assert answer.status_code == status, (answer.status_code, answer.content)
    assert answer["Content-Type"] == "application/problem+json"
    return answer.request["REQUEST_METHOD"] == "HEAD" or {"type", "title", "status", "code", "detail"} <= set(
        answer.json()
    )


def test_routes__all_of_them__resolve_to_their_example() -> None:
    for name, address in addresses():
        assert get_resolver().resolve(f"/api/v1{address}").url_name == name


@pytest.mark.parametrize(("name", "address"), sorted(addresses()))
def test_every_method__without_credentials__401(caller: Callable[..., Caller], name: str, address: str) -> None:
    stranger = caller()
    for method in METHODS:
        answer = stranger.send(method, address, {})
        assert is_problem(answer, 401), (method, name)
        assert "Bearer" in answer["WWW-Authenticate"]


@pytest.mark.parametrize(("name", "address"), sorted(addresses()))
def test_every_changing_method__with_a_read_token__403(caller: Callable[..., Caller], name: str, address: str) -> None:
    if name in READING_POSTS:
        return
    reader = caller("read")
    view = get_resolver().resolve(f"/api/v1{address}").func
    for method in sorted(CHANGING):
        expected = 403 if method in getattr(view, "cls").scopes else 405  # noqa: B009 - Django adds `cls` to functions
        assert is_problem(reader.send(method, address, {}), expected), (method, name)


@pytest.mark.parametrize("scope", [scope.value for scope in Scope if scope is not Scope.ADMIN])
def test_tokens__without_admin__out_of_reach(caller: Callable[..., Caller], scope: str) -> None:
    some = caller(scope)
    assert is_problem(some.send("GET", "/tokens"), 403)
    assert is_problem(some.send("POST", "/tokens", {"name": "x", "scopes": ["read"]}), 403)


def test_admin__method_that_does_not_exist__405(admin: Caller) -> None:
    answer = admin.send("DELETE", "/models")
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert answer["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("header", ["Bearer", "Bearer x", "Bearer mf_x_y z", "Basic YTpi", "Bearer ü", "Token mf_1"])
def test_credentials__malformed__401(caller: Callable[..., Caller], header: str) -> None:
    stranger = caller()
    stranger.headers = {"Authorization": header}
    assert is_problem(stranger.send("GET", "/me"), 401)


def test_token__expired__401(caller: Callable[..., Caller]) -> None:
    before = datetime.now(UTC) - timedelta(days=2)
    _, token = trust.issue_token(name="old", granted=["admin"], expires_in_s=3_600, actor="test", now=before)
    assert is_problem(Caller(token).send("GET", "/me"), 401)


def test_token__of_a_namespace__stays_inside_it(caller: Callable[..., Caller]) -> None:
    vision, admin = caller("model:write:vision"), caller("admin")
    for namespace in ("vision", "audio"):
        admin.post("/namespaces", {"name": namespace})
        admin.post("/models", {"name": f"{namespace}.one"})
    assert vision.send("POST", "/models", {"name": "vision.two"}).status_code == 201
    assert is_problem(vision.send("POST", "/models", {"name": "audio.two"}), 403)
    assert is_problem(vision.send("GET", "/models/audio.one"), 403)
    assert is_problem(vision.send("POST", "/models/audio.one/role", {"metadata": "{}"}), 403)
    assert is_problem(vision.send("POST", "/namespaces", {"name": "audio"}), 403)
    assert [item["name"] for item in vision.get("/models")["results"]] == ["vision.one", "vision.two"]
    assert [item["name"] for item in vision.get("/namespaces")["results"]] == ["vision"]
    assert is_problem(vision.send("POST", "/rollouts", {"model": "audio.one", "version": "1", "policy": {}}), 403)
    assert is_problem(vision.send("POST", "/plan", {"model": "audio.one", "version": "1", "policy": {}}), 403)
    assert is_problem(vision.send("GET", "/rollouts"), 403)
    assert is_problem(vision.send("GET", "/audit"), 403)
    assert vision.get("/rollouts?model=vision.one")["results"] == []


def test_token__issues_no_more_than_it_has(admin: Caller) -> None:
    issued = admin.post("/tokens", {"name": "ci", "scopes": ["model:write:vision", "read"]})
    assert Caller(issued["token"]).get("/me")["scopes"] == ["model:write:vision", "read"]
    listed = admin.get("/tokens")["results"]
    assert issued["token"] not in str(listed)
    assert admin.send("DELETE", f"/tokens/{issued['id']}").status_code == 204
    assert is_problem(Caller(issued["token"]).send("GET", "/me"), 401)


def test_token__issued_by_a_token__belongs_to_the_same_person(caller: Callable[..., Caller]) -> None:
    user = User.objects.create_user("ada", is_staff=True)
    out = StringIO()
    call_command("issue_token", "--name", "ada", "--scopes", "admin", "--user", "ada", stdout=out)
    issued = Caller(out.getvalue().strip()).post("/tokens", {"name": "ci", "scopes": ["read"]})
    record = trust.authenticate_token(token=issued["token"], now=datetime.now(UTC))
    assert record is not None
    assert record.owner == f"user#{user.pk}"


# ------------------------------------------------------------------------------------------ people


def person(*, is_staff: bool = False, is_superuser: bool = False) -> Client:
    user = User.objects.create_user("ada", password="x", is_staff=is_staff, is_superuser=is_superuser)
    client = Client(enforce_csrf_checks=True)
    client.force_login(user)
    return client


def test_person__logged_in__reads_and_does_not_write(caller: Callable[..., Caller]) -> None:
    client = person()
    assert client.get("/api/v1/models").status_code == 200
    assert client.get("/api/v1/me").json()["scopes"] == ["read"]
    assert client.get("/api/v1/tokens").status_code == 403


def test_person__session_without_csrf_token__refused(caller: Callable[..., Caller]) -> None:
    client = person(is_superuser=True)
    answer = client.post("/api/v1/namespaces", {"name": "vision"}, content_type="application/json")
    assert is_problem(answer, 403)
    client.get("/admin/login/")
    token = client.cookies.get("csrftoken")
    if token is not None:
        answer = client.post(
            "/api/v1/namespaces",
            {"name": "vision"},
            content_type="application/json",
            headers={"X-CSRFToken": token.value},
        )
        assert answer.status_code == 201


def test_person__staff__operates_and_does_not_issue_tokens(caller: Callable[..., Caller]) -> None:
    client = person(is_staff=True)
    assert "rollout:write" in client.get("/api/v1/me").json()["scopes"]
    assert client.get("/api/v1/tokens").status_code == 403
    assert client.get("/api/v1/enrolment/claims").status_code == 200
