"""Claims, certificates and tokens: single use, scoped, expiring, never stored in the clear."""

import hashlib
import json
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import NameOID

from fleet.adapters.pki_files import SecretFiles
from fleet.apps.audit import selectors as audit
from fleet.apps.trust import selectors, services
from fleet.apps.trust.models import ApiToken, Certificate, Claim
from fleet.domain.errors import ForbiddenError, InvalidInputError, NotFoundError
from fleet.ports.certificates import DeviceAuthority
from tests.server.catalogue import NOW

pytestmark = pytest.mark.django_db


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> DeviceAuthority:
    files = SecretFiles(Path(tmp_path_factory.mktemp("secrets")))
    files.ensure(server_names=["localhost"], now=NOW)
    return files.device_authority()


def csr(common_name: str = "../#+ admin") -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
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


def test_certificate__renewed__only_while_one_is_valid(authority: DeviceAuthority) -> None:
    with pytest.raises(ForbiddenError):
        services.renew_certificate(device_id="cam-0001", csr_der=csr(), authority=authority, now=NOW)
    services.redeem_claim(token=claim(), csr_der=csr(), authority=authority, now=NOW)
    later = NOW + timedelta(days=15)
    services.renew_certificate(device_id="cam-0001", csr_der=csr(), authority=authority, now=later)
    assert len(selectors.certificates("cam-0001")) == 2
    with pytest.raises(ForbiddenError):
        services.renew_certificate(
            device_id="cam-0001", csr_der=csr(), authority=authority, now=NOW + timedelta(days=60)
        )


def test_device__revoked__on_both_lists_until_it_has_a_new_certificate(authority: DeviceAuthority) -> None:
    first = services.redeem_claim(token=claim(), csr_der=csr(), authority=authority, now=NOW)
    services.redeem_claim(token=claim("cam-0002"), csr_der=csr(), authority=authority, now=NOW)
    assert services.revoke_device(device_id="cam-0001", actor="test", now=NOW) == 1
    assert [item.serial_hex for item in selectors.revocations()] == [first.certificate_serial]
    assert selectors.shut_out_devices(NOW) == {"cam-0001"}
    with pytest.raises(ForbiddenError):
        services.renew_certificate(device_id="cam-0001", csr_der=csr(), authority=authority, now=NOW)
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


@pytest.mark.parametrize("granted", [(), ("root",), ("model:write:",), ("admin:vision",), ("read", "x")])
def test_token__impossible_scopes__refused(granted: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInputError):
        issue(*granted)


@pytest.mark.parametrize("expires_in_s", [0, -1, 367 * 86_400])
def test_token__impossible_life__refused(expires_in_s: float) -> None:
    with pytest.raises(InvalidInputError):
        issue("read", expires_in_s=expires_in_s)
