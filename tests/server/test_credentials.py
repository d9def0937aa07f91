"""Claims, certificates and tokens: single use, scoped, expiring, never stored in the clear."""

import hashlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import NameOID
from django.db import connection, transaction

from fleet.adapters.pki_files import SecretFiles
from fleet.apps.audit import selectors as audit
from fleet.apps.trust import selectors, services
from fleet.apps.trust.models import ApiToken, Certificate, Claim
from fleet.apps.trust.records import Renewal
from fleet.apps.trust.services.enrolment import CERTIFICATES_A_DAY
from fleet.domain.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError, QuotaError
from fleet.ports.certificates import DeviceAuthority
from tests.server.catalogue import NOW

pytestmark = pytest.mark.django_db


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> DeviceAuthority:
    files = SecretFiles(Path(tmp_path_factory.mktemp("secrets")))
    files.ensure(server_names=["localhost"], now=NOW)
    return files.device_authority()


def make_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def csr(common_name: str = "../#+ admin", key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key or make_key(), hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


def claim(device_id: str = "cam-0001", expires_in_s: float = 3_600) -> str:
    _, token = services.create_claim(
        device_id=device_id,
        hardware_class="edge-std",
        attributes={"site": "a"},
        expires_in_s=expires_in_s,
        actor="test",
        now=NOW,
    )
    return token


# ------------------------------------------------------------------------------------------ claims


def test_claim__redeemed__certificate_in_the_device_s_name(authority: DeviceAuthority) -> None:
    enrolment = services.redeem_claim(token=claim(), csr_der=csr(), authority=authority, now=NOW)
    assert (enrolment.device_id, enrolment.hardware_class) == ("cam-0001", "edge-std")
    chain = pkcs7.load_der_pkcs7_certificates(enrolment.pkcs7_der)
    leaf = next(item for item in chain if item.subject != item.issuer)
    assert [item.value for item in leaf.subject] == ["cam-0001"]
    (stored,) = selectors.certificates("cam-0001")
    assert stored.serial == enrolment.certificate_serial == f"{leaf.serial_number:x}"


def test_claim__used_twice__refused(authority: DeviceAuthority) -> None:
    token = claim()
    services.redeem_claim(token=token, csr_der=csr(), authority=authority, now=NOW)
    with pytest.raises(ForbiddenError):
        services.redeem_claim(token=token, csr_der=csr(), authority=authority, now=NOW)
    assert Certificate.objects.count() == 1


@pytest.mark.parametrize("token", ["", "mfc_wrong", "x" * 10_000, "mfc_\x00", "mfc_ü"])
def test_claim__token_of_nobody__refused(authority: DeviceAuthority, token: str) -> None:
    claim()
    with pytest.raises(ForbiddenError):
        services.redeem_claim(token=token, csr_der=csr(), authority=authority, now=NOW)


def test_claim__expired__refused(authority: DeviceAuthority) -> None:
    token = claim(expires_in_s=60)
    with pytest.raises(ForbiddenError):
        services.redeem_claim(token=token, csr_der=csr(), authority=authority, now=NOW + timedelta(seconds=60))


def test_claim__bad_request__claim_stays_unused(authority: DeviceAuthority) -> None:
    token = claim()
    with pytest.raises(InvalidInputError):
        services.redeem_claim(token=token, csr_der=b"nonsense", authority=authority, now=NOW)
    assert services.redeem_claim(token=token, csr_der=csr(), authority=authority, now=NOW).device_id == "cam-0001"


def test_claim__stored__as_a_hash_only() -> None:
    token = claim()
    row = Claim.objects.get()
    assert row.token_sha256 == hashlib.sha256(token.encode()).hexdigest()
    assert token not in json.dumps([entry.detail for entry in audit.entries()], default=str)


@pytest.mark.parametrize(
    ("device_id", "hardware_class", "attributes", "expires_in_s"),
    [
        ("UPPER", "edge", {}, 60),
        ("../x", "edge", {}, 60),
        ("_director", "edge", {}, 60),
        ("ab", "edge", {}, 60),
        ("cam-1", "", {}, 60),
        ("cam-1", "edge std", {}, 60),
        ("cam-1", "edge", {"k": "v" * 129}, 60),
        ("cam-1", "edge", {"": "v"}, 60),
        ("cam-1", "edge", {str(number): "" for number in range(101)}, 60),
        ("cam-1", "edge", {}, 0),
        ("cam-1", "edge", {}, 91 * 86_400),
    ],
)
def test_claim__impossible__refused(
    device_id: str, hardware_class: str, attributes: dict[str, str], expires_in_s: float
) -> None:
    with pytest.raises(InvalidInputError):
        services.create_claim(
            device_id=device_id,
            hardware_class=hardware_class,
            attributes=attributes,
            expires_in_s=expires_in_s,
            actor="test",
            now=NOW,
        )


# ------------------------------------------------------------------------------------------ renewal


def renew(authority: DeviceAuthority, key: ec.EllipticCurvePrivateKey, now: datetime, **how: Any) -> Renewal:
    how.setdefault("admit", lambda _device_id: None)
    return services.renew_certificate(csr_der=csr("cam-0002", key), authority=authority, now=now, **how)


@pytest.fixture
def key(authority: DeviceAuthority) -> ec.EllipticCurvePrivateKey:
    """The key of cam-0001, enrolled at NOW."""
    made = make_key()
    services.redeem_claim(token=claim(), csr_der=csr(key=made), authority=authority, now=NOW)
    return made


@pytest.mark.parametrize("after", [timedelta(days=15), timedelta(days=29), timedelta(days=200)])
def test_renewal__key_of_an_earlier_certificate__a_new_one_in_the_same_name(
    authority: DeviceAuthority, key: ec.EllipticCurvePrivateKey, after: timedelta
) -> None:
    renewal = renew(authority, key, NOW + after)
    chain = pkcs7.load_der_pkcs7_certificates(renewal.pkcs7_der)
    leaf = next(item for item in chain if item.subject != item.issuer)
    assert [item.value for item in leaf.subject] == [renewal.device_id] == ["cam-0001"]
    assert leaf.public_key() == key.public_key()
    newest, first = selectors.certificates("cam-0001")
    assert newest.serial == renewal.certificate_serial == f"{leaf.serial_number:x}"
    assert newest.not_after_at == renewal.not_after_at > first.not_after_at
    assert first.revoked_at is None
    (entry,) = [item for item in audit.entries() if item.action == "device.renew"]
    assert (entry.actor, entry.subject) == ("device:cam-0001", "cam-0001")
    assert entry.detail == {"certificate": renewal.certificate_serial}


def test_renewal__from_a_renewed_certificate__for_years(
    authority: DeviceAuthority, key: ec.EllipticCurvePrivateKey
) -> None:
    for number in range(1, 50):
        assert renew(authority, key, NOW + number * timedelta(days=15)).device_id == "cam-0001"


def test_renewal__answer_lost_and_asked_again__another_certificate(
    authority: DeviceAuthority, key: ec.EllipticCurvePrivateKey
) -> None:
    first, second = (renew(authority, key, NOW + timedelta(days=15)) for _ in range(2))
    assert first.certificate_serial != second.certificate_serial
    assert len(selectors.certificates("cam-0001")) == 3


def test_renewal__key_of_nobody__refused(authority: DeviceAuthority, key: ec.EllipticCurvePrivateKey) -> None:
    with pytest.raises(ForbiddenError) as refusal:
        renew(authority, make_key(), NOW)
    assert refusal.value.code == "key_unknown"
    assert Certificate.objects.count() == 1


def test_renewal__certificate_without_a_known_key__is_nobody_s(authority: DeviceAuthority) -> None:
    Certificate.objects.create(serial="1", device_id="cam-0009", key_sha256="", not_before=NOW, not_after=NOW)
    with pytest.raises(ForbiddenError) as refusal:
        renew(authority, make_key(), NOW)
    assert refusal.value.code == "key_unknown"


def test_renewal__request_signed_by_another_key__refused(
    authority: DeviceAuthority, key: ec.EllipticCurvePrivateKey
) -> None:
    """The attacker has the device's certificate, hence its public key, but not the private one."""
    forged = bytearray(csr(key=key))
    forged[-1] ^= 1
    with pytest.raises(InvalidInputError) as refusal:
        services.renew_certificate(csr_der=bytes(forged), authority=authority, admit=lambda _: None, now=NOW)
    assert refusal.value.code == "certificate_request_refused"
    assert Certificate.objects.count() == 1


def test_renewal__after_revocation__refused_for_ever(
    authority: DeviceAuthority, key: ec.EllipticCurvePrivateKey
) -> None:
    renew(authority, key, NOW + timedelta(days=15))
    services.revoke_device(device_id="cam-0001", actor="test", now=NOW + timedelta(days=16))
    for days in (16, 60):
        with pytest.raises(ForbiddenError) as refusal:
            renew(authority, key, NOW + timedelta(days=days))
        assert refusal.value.code == "key_revoked"
    assert Certificate.objects.count() == 2


def test_renewal__revoked_while_it_is_admitted__refused(
    authority: DeviceAuthority, key: ec.EllipticCurvePrivateKey
) -> None:
    with pytest.raises(ForbiddenError) as refusal:
        renew(
            authority,
            key,
            NOW,
            admit=lambda device_id: services.revoke_device(device_id=device_id, actor="test", now=NOW),
        )
    assert refusal.value.code == "key_revoked"


def test_renewal__not_admitted__nothing_is_issued_or_written_down(
    authority: DeviceAuthority, key: ec.EllipticCurvePrivateKey
) -> None:
    def admit(device_id: str) -> None:
        raise ForbiddenError("device_not_active", device_id)

    with pytest.raises(ForbiddenError, match="cam-0001"):
        renew(authority, key, NOW, admit=admit)
    assert Certificate.objects.count() == 1
    assert not [item for item in audit.entries() if item.action == "device.renew"]


def test_renewal__too_many_in_a_day__refused_until_the_next(
    authority: DeviceAuthority, key: ec.EllipticCurvePrivateKey
) -> None:
    later = NOW + timedelta(days=15)
    for _ in range(CERTIFICATES_A_DAY):
        renew(authority, key, later)
    with pytest.raises(QuotaError) as refusal:
        renew(authority, key, later + timedelta(hours=1))
    assert refusal.value.code == "renewals_exhausted"
    renew(authority, key, later + timedelta(days=1))


def test_claim__redeemed_with_another_device_s_key__refused_and_still_good(
    authority: DeviceAuthority, key: ec.EllipticCurvePrivateKey
) -> None:
    token = claim("cam-0002")
    with pytest.raises(ConflictError) as refusal:
        services.redeem_claim(token=token, csr_der=csr(key=key), authority=authority, now=NOW)
    assert refusal.value.code == "key_in_use"
    assert selectors.certificates("cam-0002") == []
    assert services.redeem_claim(token=token, csr_der=csr(), authority=authority, now=NOW).device_id == "cam-0002"


def test_device__revoked__on_both_lists_until_it_has_a_new_certificate(authority: DeviceAuthority) -> None:
    first = services.redeem_claim(token=claim(), csr_der=csr(), authority=authority, now=NOW)
    services.redeem_claim(token=claim("cam-0002"), csr_der=csr(), authority=authority, now=NOW)
    assert services.revoke_device(device_id="cam-0001", actor="test", now=NOW) == 1
    assert [item.serial_hex for item in selectors.revocations()] == [first.certificate_serial]
    assert selectors.shut_out_devices(NOW) == {"cam-0001"}
    services.redeem_claim(token=claim(), csr_der=csr(), authority=authority, now=NOW)
    assert selectors.shut_out_devices(NOW) == set()


# ------------------------------------------------------------------------------------------ tokens


def issue(*granted: str, expires_in_s: float = 3_600) -> str:
    return services.issue_token(name="ci", granted=granted, expires_in_s=expires_in_s, actor="test", now=NOW)[1]


def test_token__valid__authenticates_until_it_expires() -> None:
    token = issue("model:write:vision", "read")
    record = services.authenticate_token(token=token, now=NOW)
    assert record is not None
    assert record.scopes == ("model:write:vision", "read")
    assert services.authenticate_token(token=token, now=NOW + timedelta(hours=1)) is None


def test_token__revoked__opens_nothing() -> None:
    token = issue("read")
    record = services.authenticate_token(token=token, now=NOW)
    assert record is not None
    services.revoke_token(token_id=record.id, actor="test", now=NOW)
    services.revoke_token(token_id=record.id, actor="test", now=NOW)
    assert services.authenticate_token(token=token, now=NOW) is None
    with pytest.raises(NotFoundError):
        services.revoke_token(token_id=0, actor="test", now=NOW)


def test_token__stored__as_a_hash_only() -> None:
    token = issue("read")
    row = ApiToken.objects.get()
    assert token.startswith(f"mf_{row.prefix}_")
    assert row.token_sha256 == hashlib.sha256(token.encode()).hexdigest()
    assert token.removeprefix(f"mf_{row.prefix}_") not in str(vars(row))


@pytest.mark.parametrize("text", ["", "mf_", "mf_x_y", "Bearer", "mf_" + "x" * 1_000, "mf_\x00"])
def test_token__of_nobody__none(text: str) -> None:
    issue("read")
    assert services.authenticate_token(token=text, now=NOW) is None


def test_token__used_often__written_once_a_minute() -> None:
    token = issue("read")
    for second in (0, 10, 59, 61):
        services.authenticate_token(token=token, now=NOW + timedelta(seconds=second))
    assert ApiToken.objects.get().last_used_at == NOW + timedelta(seconds=61)


@pytest.mark.django_db(transaction=True)
def test_token__used_while_somebody_writes__does_not_wait_and_is_noted_the_next_time() -> None:
    token = issue("read")
    writes, done = threading.Event(), threading.Event()

    def write() -> None:
        try:
            with transaction.atomic():
                ApiToken.objects.update(name="written")
                writes.set()
                # Were the reader to wait for this writer, both would wait until the database gives up.
                done.wait(60)
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(write)
        assert writes.wait(60)
        try:
            assert services.authenticate_token(token=token, now=NOW) is not None
        finally:
            done.set()
        writer.result()
    assert ApiToken.objects.get().last_used_at is None
    services.authenticate_token(token=token, now=NOW)
    assert ApiToken.objects.get().last_used_at == NOW
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA busy_timeout")
            assert cursor.fetchone() == (20_000,)


@pytest.mark.parametrize("granted", [(), ("root",), ("model:write:",), ("admin:vision",), ("read", "x")])
def test_token__impossible_scopes__refused(granted: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInputError):
        issue(*granted)


@pytest.mark.parametrize("expires_in_s", [0, -1, 367 * 86_400])
def test_token__impossible_life__refused(expires_in_s: float) -> None:
    with pytest.raises(InvalidInputError):
        issue("read", expires_in_s=expires_in_s)
