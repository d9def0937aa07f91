"""Bad input is answered with a problem document and a stable code, whatever it is."""

from collections.abc import Callable

import pytest
from django.db import OperationalError

from fleet.entrypoints.api.parsers import MAX_JSON_BYTES
from tests.server.api.conftest import Caller


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "body_invalid"),
        (b"{", 400, "body_malformed"),
        (b"\xff\xfe", 400, "body_malformed"),
        (b"[]", 400, "body_invalid"),
        (b"null", 400, "body_invalid"),
        (b"[" * 100_000, 400, "body_malformed"),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, 400, "body_malformed"),
        (b'{"name": NaN}', 400, "body_malformed"),
        (b'{"name": 1e400}', 400, "body_malformed"),
        (b'{"name": ' + b"9" * 5_000 + b"}", 400, "body_malformed"),
        (b'{"name": "vis\\u0000ion"}', 400, "body_invalid"),
        (b'{"nam\\u0000e": "vision"}', 400, "body_invalid"),
        (b'{"name": "vision", "x": [[{"y": "\\u0000"}]]}', 400, "body_invalid"),
        (b'{"name": "\\ud800"}', 400, "body_malformed"),
        (b'{"name": "UPPER"}', 400, "namespace_name"),
        (b'{"name": {}}', 400, "body_invalid"),
        (b'{"name": "vision", "profile": "lax"}', 400, "body_invalid"),
        (b'{"name": "' + b"x" * MAX_JSON_BYTES + b'"}', 413, "body_too_large"),
    ],
)
def test_body__malformed__problem_with_a_code(admin: Caller, body: bytes, status: int, code: str) -> None:
    answer = admin.send("POST", "/namespaces", body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer["Content-Type"] == "application/problem+json"


def test_body__backslash_and_digits_that_are_no_escape__taken_as_they_are(admin: Caller) -> None:
    body = b'{"name": "vision", "profile": "dev", "description": "\\\\u0000 \\u00e9"}'
    assert admin.send("POST", "/namespaces", body).status_code == 201


def test_body__other_media_type__415(admin: Caller) -> None:
    answer = admin.send("POST", "/namespaces", b"name=vision", content_type="application/x-www-form-urlencoded")
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


def test_accept__nothing_that_is_offered__406_as_a_problem(admin: Caller) -> None:
    answer = admin.send("GET", "/models", None, Accept="image/png")
    assert (answer.status_code, answer.json()["code"]) == (406, "not_acceptable")


@pytest.mark.parametrize(
    "address",
    [
        "/nothing",
        "/models/",
        "/models/vision.digits/",
        "/models/../../etc/passwd",
        "/models/UPPER.digits",
        "/models/vision.digits/versions/%2e%2e",
        "/devices/_director",
        "/rollouts/1",
        "/uploads/abc",
        "/tokens/99999999999999999999",
        "/%00",
        "/models/vision.digits%0a",
    ],
)
def test_address__none_of_ours__404_as_a_problem(admin: Caller, address: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        answer = admin.send(method, address)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("/models/vision.nothing", "model_not_found"),
        ("/models/vision.nothing/versions", "model_not_found"),
        ("/models/vision.nothing/versions/1", "version_not_found"),
        ("/models/vision.nothing/role", "model_not_found"),
        ("/models/vision.nothing/aliases", "model_not_found"),
        ("/models/vision.nothing/performance", "model_not_found"),
        ("/devices/cam-9999", "device_unknown"),
        ("/devices/cam-9999/timeline", "device_unknown"),
        ("/devices/cam-9999/explain?model=vision.digits", "device_unknown"),
        ("/rollouts/r-000000000000", "rollout_unknown"),
        ("/rollouts/r-000000000000/gates", "rollout_unknown"),
        (f"/uploads/{'a' * 64}", "upload_not_found"),
    ],
)
def test_thing__does_not_exist__404_with_its_code(admin: Caller, address: str, code: str) -> None:
    answer = admin.send("GET", address)
    assert (answer.status_code, answer.json()["code"]) == (404, code)


@pytest.mark.parametrize(
    "query",
    [
        "cursor=x",
        "cursor=%00",
        "cursor=" + "A" * 1_000,
        "cursor=LTE",
        "cursor=WzFd",
        "cursor=MTAwMDAwMDAwMDAwMDAwMDAwMDAwMDAw",
        "cursor=Ilx1ZDgwMCI",
        "cursor=Ilx1MDAwMCI",
        "page_size=0",
        "page_size=501",
        "page_size=x",
        "page_size=1e3",
    ],
)
def test_query__malformed__400(admin: Caller, query: str) -> None:
    for address in ("/audit", "/devices", "/tokens"):
        answer = admin.send("GET", f"{address}?{query}")
        assert answer.status_code in {200, 400}, answer.content
        if not query.startswith("cursor") or address != "/devices":
            assert answer.status_code == 400


@pytest.mark.parametrize("query", ["search=%00", "state=x", "online=maybe", "hardware_class=" + "x" * 64])
def test_device_filter__malformed__400(admin: Caller, query: str) -> None:
    assert admin.send("GET", f"/devices?{query}").status_code == 400


def test_device_filter__not_the_language__400_points_at_the_column(admin: Caller) -> None:
    answer = admin.send("GET", "/devices?filter=hw%20%3D%20%22a%22")
    assert (answer.status_code, answer.json()["code"]) == (400, "filter_invalid")
    assert "column 4" in answer.json()["detail"]
    assert admin.get("/devices?filter=hw%20%3D%3D%20%22a%22")["results"] == []


def test_database__does_not_answer__503(admin: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy() -> None:
        raise OperationalError("database is locked")

    monkeypatch.setattr("fleet.apps.registry.selectors.namespaces", busy)
    answer = admin.send("GET", "/namespaces")
    assert (answer.status_code, answer.json()["code"]) == (503, "database_busy")


def test_bug__in_a_view__500_that_says_nothing_of_the_inside(
    admin: Caller, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr("fleet.apps.registry.selectors.namespaces", broken)
    answer = admin.send("GET", "/namespaces")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert b"secret detail" not in answer.content
    assert "ZeroDivisionError" in caplog.text


def test_pages__of_a_list__join_without_gaps(admin: Caller, caller: Callable[..., Caller]) -> None:
    for number in range(7):
        admin.post("/namespaces", {"name": f"n{number}"})
    seen, address, pages = [], "/audit?page_size=3", 0
    while address:
        page = admin.get(address)
        seen += [item["id"] for item in page["results"]]
        address = (page["next"] or "").partition("/api/v1")[2]
        pages += 1
    assert pages == 3
    assert seen == sorted(seen, reverse=True)
    assert len(seen) == len(set(seen)) == 8
