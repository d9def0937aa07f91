"""What devices fetch: pinned anchors, certificates for claims, metadata, blobs with ranges."""

import base64
import hashlib
import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs7
from django.test import Client

from fleet.apps.devices import selectors as devices
from fleet.apps.devices import services as device_services
from fleet.apps.trust import selectors as trust_selectors
from fleet.apps.trust import services as trust
from fleet.domain import tickets
from fleet.wiring import fleet_access, server
from tests.fakes.metadata_fetcher import updater
from tests.server.pipeline import MODEL, Pipeline
from tests.server.test_credentials import csr, make_key


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def device() -> Client:
    return Client()


def body_of(answer: Any) -> bytes:
    return b"".join(answer.streaming_content) if answer.streaming else bytes(answer.content)


# ------------------------------------------------------------------------------------------ anchors and configuration


def test_anchors__served__are_the_pinned_bytes(released: Pipeline, device: Client) -> None:
    answer = device.get("/device/v1/anchors")
    assert answer.status_code == 200
    document = json.loads(answer.content)
    assert set(document) == {"v", "device_ca_pem", "image_root", "director_root"}
    expected = trust_selectors.anchors(server.certificate_authority().anchor_pem())
    assert answer.content == expected


def test_anchors__before_the_ceremony__404_and_says_what_to_do(installed: Path, db: None, device: Client) -> None:
    answer = device.get("/device/v1/anchors")
    assert (answer.status_code, answer.json()["code"]) == (404, "trust_not_set_up")


def test_configuration__says_where_the_broker_is(installed: Path, db: None, device: Client) -> None:
    answer = device.get("/device/v1/config").json()
    assert (answer["broker_host"], answer["broker_port"]) == ("127.0.0.1", 8883)
    assert answer["image_url"].endswith("/image")
    assert abs(answer["server_time"] - now().timestamp()) < 10


@pytest.mark.parametrize(
    "address",
    [
        "device/v1/anchors",
        "device/v1/config",
        ".well-known/est/simpleenroll",
        ".well-known/est/simplereenroll",
        f"device/v1/blobs/{'a' * 64}",
    ],
)
def test_addresses__method_that_is_not_theirs__405(installed: Path, db: None, device: Client, address: str) -> None:
    answer = device.delete(f"/{address}")
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert answer["Allow"]


# ------------------------------------------------------------------------------------------ enrolment


def claim(device_id: str = "cam-0001") -> str:
    _, token = trust.create_claim(
        device_id=device_id,
        hardware_class="edge-std",
        attributes={"site": "a"},
        expires_in_s=60,
        actor="test",
        now=now(),
    )
    return token


def enroll(device: Client, token: str | None, body: bytes | None = None) -> Any:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    content = base64.encodebytes(csr()) if body is None else body
    return device.post("/.well-known/est/simpleenroll", content, content_type="application/pkcs10", headers=headers)


def test_enrolment__claim_redeemed__device_and_certificate_exist(released: Pipeline, device: Client) -> None:
    answer = enroll(device, claim())
    assert answer.status_code == 200
    assert answer["X-Modelfleet-Device-Id"] == "cam-0001"
    assert answer["X-Modelfleet-Hardware-Class"] == "edge-std"
    chain = pkcs7.load_der_pkcs7_certificates(base64.b64decode(answer.content))
    assert any(item.value == "cam-0001" for certificate in chain for item in certificate.subject)
    record = devices.device("cam-0001")
    assert (record.hardware_class, record.attributes) == ("edge-std", {"site": "a"})


@pytest.mark.parametrize(
    ("token", "body", "status", "code"),
    [
        (None, None, 401, "claim_missing"),
        ("mfc_wrong", None, 403, "claim_invalid"),
        ("claim", b"%%%", 400, "certificate_request_refused"),
        ("claim", b"", 400, "certificate_request_refused"),
        ("claim", base64.b64encode(b"nonsense"), 400, "certificate_request_refused"),
        ("claim", b"A" * 20_000, 413, "certificate_request_too_large"),
    ],
)
def test_enrolment__refused__problem_and_claim_still_good(
    released: Pipeline, device: Client, token: str | None, body: bytes | None, status: int, code: str
) -> None:
    good = claim()
    answer = enroll(device, good if token == "claim" else token, body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer["Content-Type"] == "application/problem+json"
    assert enroll(device, good).status_code == 200


def test_enrolment__of_a_revoked_device__refused_and_nothing_issued(released: Pipeline, device: Client) -> None:
    enroll(device, claim())
    device_services.set_state(device_id="cam-0001", state="revoked", now=now())
    answer = enroll(device, claim())
    assert (answer.status_code, answer.json()["code"]) == (403, "device_revoked")
    assert len(trust_selectors.certificates("cam-0001")) == 1


# ------------------------------------------------------------------------------------------ renewal


def reenroll(device: Client, request: bytes) -> Any:
    return device.post(
        "/.well-known/est/simplereenroll", base64.encodebytes(request), content_type="application/pkcs10"
    )


@pytest.fixture
def key(released: Pipeline, device: Client) -> ec.EllipticCurvePrivateKey:
    """The key of the enrolled cam-0001."""
    made = make_key()
    assert enroll(device, claim(), base64.encodebytes(csr(key=made))).status_code == 200
    return made


def test_renewal__by_the_enrolled_key__same_answer_as_enrolment(
    device: Client, key: ec.EllipticCurvePrivateKey
) -> None:
    enrolled_at = devices.device("cam-0001").enrolled_at
    answer = reenroll(device, csr(key=key))
    assert answer.status_code == 200
    assert answer["X-Modelfleet-Device-Id"] == "cam-0001"
    assert answer["Content-Type"] == "application/pkcs7-mime; smime-type=certs-only"
    assert answer["Cache-Control"] == "no-store"
    chain = pkcs7.load_der_pkcs7_certificates(base64.b64decode(answer.content))
    issuer, leaf = sorted(chain, key=lambda item: item.subject != item.issuer)
    leaf.verify_directly_issued_by(issuer)
    assert leaf.public_key() == key.public_key()
    assert devices.device("cam-0001").enrolled_at == enrolled_at
    assert len(trust_selectors.certificates("cam-0001")) == 2


@pytest.mark.parametrize("state", ["quarantined", "revoked"])
def test_renewal__device_that_is_not_active__refused(
    device: Client, key: ec.EllipticCurvePrivateKey, state: str
) -> None:
    device_services.set_state(device_id="cam-0001", state=state, now=now())
    answer = reenroll(device, csr(key=key))
    assert (answer.status_code, answer.json()["code"]) == (403, "device_not_active")
    assert answer["Content-Type"] == "application/problem+json"
    assert len(trust_selectors.certificates("cam-0001")) == 1


def test_renewal__revoked_by_an_operator__refused_even_when_readmitted(
    device: Client, key: ec.EllipticCurvePrivateKey
) -> None:
    fleet_access.revoke_device(device_id="cam-0001", actor="test", now=now())
    device_services.set_state(device_id="cam-0001", state="active", now=now())
    answer = reenroll(device, csr(key=key))
    assert (answer.status_code, answer.json()["code"]) == (403, "key_revoked")


@pytest.mark.parametrize(
    ("request_der", "status", "code"),
    [
        (b"", 400, "certificate_request_refused"),
        (b"nonsense", 400, "certificate_request_refused"),
        (csr(), 403, "key_unknown"),
        (b"A" * 20_000, 413, "certificate_request_too_large"),
    ],
)
def test_renewal__of_nobody__problem(
    released: Pipeline, device: Client, request_der: bytes, status: int, code: str
) -> None:
    answer = reenroll(device, request_der)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_renewal__too_often__429(device: Client, key: ec.EllipticCurvePrivateKey) -> None:
    answers = [reenroll(device, csr(key=key)) for _ in range(6)]
    assert {answer.status_code for answer in answers[:4]} == {200}
    assert (answers[-1].status_code, answers[-1].json()["code"]) == (429, "renewals_exhausted")


# ------------------------------------------------------------------------------------------ image metadata


def test_metadata__over_http__verified_by_the_client(released: Pipeline, device: Client, tmp_path: Path) -> None:
    names = ("timestamp.json", "2.snapshot.json", "1.root.json", "2.targets.json", f"2.{MODEL}.json")
    files = {name: body_of(device.get(f"/image/metadata/{name}")) for name in names}
    client = updater(tmp_path / "m", files["1.root.json"], files)
    assert client.get_targetinfo(f"models/{MODEL}/1/onnx-fp32-any.json") is not None


def test_metadata__cache_rules__numbered_for_ever_timestamp_never(released: Pipeline, device: Client) -> None:
    assert "immutable" in device.get("/image/metadata/1.root.json")["Cache-Control"]
    assert device.get("/image/metadata/timestamp.json")["Cache-Control"] == "no-cache"
    missing = device.get("/image/metadata/2.root.json")
    assert (missing.status_code, missing["Cache-Control"]) == (404, "no-store")


@pytest.mark.parametrize(
    "name",
    [
        "..%2f..%2fsecrets%2fweb.key",
        "../../secrets/web.key",
        ".timestamp.json",
        "%2e%2e",
        "timestamp.json%00",
        "TIMESTAMP.JSON",
        "x" * 5_000 + ".json",
    ],
)
def test_metadata__name_that_climbs__404(released: Pipeline, device: Client, name: str) -> None:
    answer = device.get(f"/image/metadata/{name}")
    assert answer.status_code == 404
    assert b"PRIVATE" not in body_of(answer)


# ------------------------------------------------------------------------------------------ blobs


@pytest.fixture
def blob(released: Pipeline) -> tuple[str, bytes]:
    """The address and the content of a stored blob."""
    sha256, content = next(
        (path.name, path.read_bytes())
        for path in (Path(str(server.blob_store()._directory))).rglob("*")  # type: ignore[attr-defined]
        if path.is_file()
    )
    return server.blob_store().url(sha256, 60), content


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        ("bytes=0-", 0, None),
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=10-99999999", 10, None),
        ("bytes=10-18446744073709551616", 0, None),
        ("bytes=-5", -5, None),
        ("bytes=-99999999", 0, None),
    ],
)
def test_blob__range__exactly_these_bytes(
    blob: tuple[str, bytes], device: Client, header: str, start: int, end: int | None
) -> None:
    url, content = blob
    answer = device.get(url, headers={"Range": header})
    body = body_of(answer)
    assert body == content[start:end]
    assert answer["Content-Length"] == str(len(body))
    if answer.status_code == 206:
        first = start % len(content) if start < 0 else start
        assert answer["Content-Range"] == f"bytes {first}-{first + len(body) - 1}/{len(content)}"
    else:
        assert header.startswith("bytes=10-184")


@pytest.mark.parametrize("header", ["bytes=0-1,3-4", "items=0-1", "bytes=5-2", "bytes=a-b", "bytes=-", "nonsense"])
def test_blob__range_that_is_not_understood__the_whole(blob: tuple[str, bytes], device: Client, header: str) -> None:
    answer = device.get(blob[0], headers={"Range": header})
    assert (answer.status_code, body_of(answer)) == (200, blob[1])


@pytest.mark.parametrize("header", ["bytes=99999999-", "bytes=99999999-100000000", "bytes=-0"])
def test_blob__range_behind_the_end__416_with_the_length(blob: tuple[str, bytes], device: Client, header: str) -> None:
    answer = device.get(blob[0], headers={"Range": header})
    assert (answer.status_code, answer["Content-Range"]) == (416, f"bytes */{len(blob[1])}")


def test_blob__if_range__part_only_of_the_same_blob(blob: tuple[str, bytes], device: Client) -> None:
    url, content = blob
    etag = device.head(url)["ETag"]
    assert etag == f'"{hashlib.sha256(content).hexdigest()}"'
    same = device.get(url, headers={"Range": "bytes=10-", "If-Range": etag})
    other = device.get(url, headers={"Range": "bytes=10-", "If-Range": '"other"'})
    assert (same.status_code, body_of(same)) == (206, content[10:])
    assert (other.status_code, body_of(other)) == (200, content)


def test_blob__head__headers_without_bytes(blob: tuple[str, bytes], device: Client) -> None:
    answer = device.head(blob[0])
    assert answer["Content-Length"] == str(len(blob[1]))
    assert answer["Accept-Ranges"] == "bytes"
    assert body_of(answer) == b""


def test_blob__known_already__304(blob: tuple[str, bytes], device: Client) -> None:
    etag = device.head(blob[0])["ETag"]
    assert device.get(blob[0], headers={"If-None-Match": etag}).status_code == 304


def test_blob__larger_than_four_gibibytes__ranges_are_not_cut(released: Pipeline, device: Client) -> None:
    sha256 = "b" * 64
    path = Path(str(server.blob_store()._directory)) / "bb" / sha256  # type: ignore[attr-defined]
    path.parent.mkdir(exist_ok=True)
    length = (1 << 32) + 10
    with path.open("wb") as file:
        file.truncate(length - 4)
        file.seek(0, 2)
        file.write(b"tail")
    answer = device.get(server.blob_store().url(sha256, 60), headers={"Range": f"bytes={length - 4}-"})
    assert (answer.status_code, body_of(answer)) == (206, b"tail")
    assert answer["Content-Range"] == f"bytes {length - 4}-{length - 1}/{length}"


@pytest.mark.parametrize("ticket", ["", "x", "1.2", "ffffffffff." + "0" * 64, "٣." + "0" * 64, "-1." + "0" * 64])
def test_blob__ticket_forged__403(blob: tuple[str, bytes], device: Client, ticket: str) -> None:
    answer = device.get(blob[0].partition("?")[0], {"ticket": ticket})
    assert (answer.status_code, answer.json()["code"]) == (403, "ticket_invalid")


def test_blob__ticket_expired_or_for_another__403(blob: tuple[str, bytes], device: Client) -> None:
    address = blob[0].partition("?")[0]
    sha256 = address.rsplit("/", 1)[-1]
    key = server.blob_ticket_key()
    for ticket in (
        tickets.issue(key, sha256, now() - timedelta(seconds=1)),
        tickets.issue(key, "c" * 64, now() + timedelta(seconds=60)),
        tickets.issue(tickets.ticket_key(b"another server"), sha256, now() + timedelta(seconds=60)),
    ):
        assert device.get(address, {"ticket": ticket}).status_code == 403


def test_blob__gone_from_the_store__404(blob: tuple[str, bytes], device: Client) -> None:
    sha256 = blob[0].partition("?")[0].rsplit("/", 1)[-1]
    server.blob_store().delete(sha256)
    assert device.get(blob[0]).status_code == 404


@pytest.mark.parametrize("name", ["..%2fsecrets", "A" * 64, "a" * 63, "a" * 64 + "%0a", "%2e%2e%2fweb.key"])
def test_blob__name_that_is_no_sha256__404(released: Pipeline, device: Client, name: str) -> None:
    assert device.get(f"/device/v1/blobs/{name}").status_code == 404


def test_blob__client_goes_away__file_is_closed(blob: tuple[str, bytes], device: Client) -> None:
    answer: Any = device.get(blob[0])
    assert answer.streaming
    next(iter(answer.streaming_content))
    answer.close()
    assert threading.active_count() < 50
