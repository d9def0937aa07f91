"""The way of a version over REST."""

import json
from typing import Any

import pytest

from fleet.domain import repository as roles
from fleet.domain.repository import Profile
from fleet.wiring import server
from tests.domain import model_files
from tests.server.api.conftest import Caller
from tests.server.pipeline import MODEL, Pipeline, sha256_of, weights

CONTENT = bytes(range(256)) * 100
SHA256 = sha256_of(CONTENT)


def chunk(caller: Caller, content: bytes, method: str = "PATCH", sha256: str = SHA256, **headers: str) -> Any:
    return caller.send(method, f"/uploads/{sha256}", content, content_type="application/octet-stream", **headers)


def begin(caller: Caller) -> Any:
    return caller.send("POST", "/uploads", {"sha256": SHA256, "length": len(CONTENT)})


# ------------------------------------------------------------------------------------------ uploads


def test_upload__in_chunks__resumes_where_it_was(admin: Caller) -> None:
    assert (begin(admin).status_code, begin(admin).json()["received"]) == (201, 0)
    answer = chunk(admin, CONTENT[:1_000], Upload_Offset="0")
    assert (answer.status_code, answer["Upload-Offset"]) == (200, "1000")
    assert begin(admin).json() == {"sha256": SHA256, "length": len(CONTENT), "received": 1_000, "complete": False}
    answer = chunk(admin, CONTENT[1_000:], "PUT", Content_Range=f"bytes 1000-{len(CONTENT) - 1}/{len(CONTENT)}")
    assert answer.json()["complete"]
    assert begin(admin).status_code == 200
    with server.blob_store().open(SHA256) as reader:
        assert reader.read() == CONTENT


def test_upload__whole_in_one_put__complete(admin: Caller) -> None:
    begin(admin)
    assert chunk(admin, CONTENT, "PUT").json()["complete"]


def test_upload__wrong_offset__409_with_the_right_one(admin: Caller) -> None:
    begin(admin)
    chunk(admin, CONTENT[:1_000], Upload_Offset="0")
    answer = chunk(admin, CONTENT[500:], Upload_Offset="500")
    assert (answer.status_code, answer.json()["code"], answer["Upload-Offset"]) == (409, "upload_offset", "1000")


@pytest.mark.parametrize(
    "headers",
    [
        {"Upload_Offset": "-1"},
        {"Upload_Offset": "x"},
        {"Upload_Offset": "9" * 30},
        {"Upload_Offset": "٣"},
        {"Content_Range": "bytes 0-5/10"},
        {"Content_Range": "items 0-1/2"},
        {"Content_Length": "x"},
    ],
)
def test_upload__headers_malformed__400(admin: Caller, headers: dict[str, str]) -> None:
    begin(admin)
    assert chunk(admin, CONTENT[:10], **headers).status_code == 400


def test_upload__empty_chunk__refused(admin: Caller) -> None:
    begin(admin)
    assert chunk(admin, b"", Upload_Offset="0").status_code == 400


def test_upload__another_content__400_and_forgotten(admin: Caller) -> None:
    begin(admin)
    answer = chunk(admin, b"x" * len(CONTENT))
    assert (answer.status_code, answer.json()["code"]) == (400, "blob_mismatch")
    assert begin(admin).status_code == 201


def test_upload__never_announced__404(admin: Caller) -> None:
    assert chunk(admin, CONTENT).status_code == 404


# ------------------------------------------------------------------------------------------ versions


def body_of(released: Pipeline, label: str = "2", content: bytes | None = None) -> dict[str, Any]:
    manifest = released.manifest(label, content or weights(label))
    return {
        "manifests": [manifest.encode().decode()],
        "role": released.sign(released.role_with(manifest, now=_now())).decode(),
        "notes": "better",
        "git_sha": None,
        "metadata": {"run": 7},
    }


def _now() -> Any:
    return server.clock().now()


def test_version__finalised_and_published__shown(released: Pipeline, admin: Caller) -> None:
    answer = admin.post(f"/models/{MODEL}/versions", body_of(released))
    assert (answer["version"], answer["state"], answer["number"]) == ("2", "publishing", 2)
    assert server.publish_image(_now()) == 1
    shown = admin.get(f"/models/{MODEL}/versions/2")
    assert (shown["state"], shown["notes"], shown["git_sha"], shown["metadata"]) == (
        "published",
        "better",
        "",
        {"run": 7},
    )
    (variant,) = shown["variants"]
    assert (variant["variant"], variant["format"], variant["precision"]) == ("onnx-fp32-any", "onnx", "fp32")
    assert {file["role"] for file in variant["files"]} == {"weights", "golden"}
    assert [item["version"] for item in admin.get(f"/models/{MODEL}/versions")["results"]] == ["2", "1"]
    assert admin.get("/models")["results"][0]["latest_version"] == "2"
    (inspected,) = admin.get(f"/models/{MODEL}/versions/2/inspection")["variants"]
    assert inspected["inspection"]["opset"] == 17
    assert sha256_of(inspected["manifest"].encode()) == variant["digest"]


def test_version__same_key_again__answered_again_and_made_once(released: Pipeline, admin: Caller) -> None:
    body = body_of(released)
    first = admin.send("POST", f"/models/{MODEL}/versions", body, Idempotency_Key="push-2")
    again = admin.send("POST", f"/models/{MODEL}/versions", body, Idempotency_Key="push-2")
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert again["Idempotent-Replayed"] == "true"
    other = admin.send("POST", f"/models/{MODEL}/versions", {**body, "notes": "x"}, Idempotency_Key="push-2")
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")


def test_version__refused_under_a_key__may_be_mended_under_it(released: Pipeline, admin: Caller) -> None:
    body = body_of(released)
    bad = admin.send("POST", f"/models/{MODEL}/versions", {**body, "role": "{}"}, Idempotency_Key="k")
    assert (bad.status_code, bad.json()["code"]) == (400, "metadata_malformed")
    assert admin.send("POST", f"/models/{MODEL}/versions", body_of(released), Idempotency_Key="k").status_code == 201


@pytest.mark.parametrize("key", ["", "a b", "x" * 201, "ü"])
def test_version__key_of_another_form__400(released: Pipeline, admin: Caller, key: str) -> None:
    answer = admin.send("POST", f"/models/{MODEL}/versions", body_of(released), Idempotency_Key=key)
    assert answer.status_code == 400


def test_version__pickle_in_disguise__400_and_nothing_left(released: Pipeline, admin: Caller) -> None:
    released.upload(model_files.hostile_pickle(4), actor=admin.get("/me")["actor"])
    body = body_of(released, content=model_files.hostile_pickle(4))
    answer = admin.send("POST", f"/models/{MODEL}/versions", body)
    assert (answer.status_code, answer.json()["code"]) == (400, "file_forbidden")
    assert admin.send("GET", f"/models/{MODEL}/versions/2").status_code == 404
    assert server.blob_store().length(sha256_of(model_files.hostile_pickle(4))) is None
    assert admin.get(f"/models/{MODEL}/role")["version"] == 2


def test_version__revoked__by_the_role_without_it(released: Pipeline, admin: Caller) -> None:
    role = released.sign(roles.without_version(released.current(), "1", profile=Profile.DEV, now=_now()))
    answer = admin.post(f"/models/{MODEL}/versions/1:revoke", {"metadata": role.decode()})
    assert answer["state"] == "revoked"
    assert admin.get("/models")["results"][0]["latest_version"] is None


def test_alias__set_listed_removed(released: Pipeline, admin: Caller) -> None:
    assert admin.send("PUT", f"/models/{MODEL}/aliases/champion", {"version": "1"}).json()["version"] == "1"
    assert [item["name"] for item in admin.get(f"/models/{MODEL}/aliases")["results"]] == ["champion"]
    assert admin.send("DELETE", f"/models/{MODEL}/aliases/champion").status_code == 204
    assert admin.send("DELETE", f"/models/{MODEL}/aliases/champion").status_code == 404


def test_figures__of_a_model_without_devices__empty(released: Pipeline, admin: Caller) -> None:
    assert admin.get(f"/models/{MODEL}/performance")["overall"] == []
    assert admin.get(f"/models/{MODEL}/savings")["transfers"] == []
    assert admin.get(f"/models/{MODEL}/deltas")["results"] == []


def test_trust__state_and_keys__shown(released: Pipeline, admin: Caller) -> None:
    assert admin.get("/trust")["roots_imported"]
    keys = admin.get("/trust/online-keys")
    assert keys["director"]["keyid"] == released.keys.director.public_key.keyid
    again = admin.send("POST", "/trust/roots", {"image_root": "{}", "image_targets": "{}", "director_root": "{}"})
    assert again.status_code == 400
    assert json.loads(admin.get(f"/models/{MODEL}/role")["metadata"])["signed"]["version"] == 2
