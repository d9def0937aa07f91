"""Attacks on the device certificate authority: what a request may not decide, and requests that are not signed."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from device_client.wire.errors import MalformedNameError
from fleet.adapters.device_authority import DeviceCertificateAuthority
from fleet.adapters.x509_build import Authority, build_authority
from fleet.ports.certificates import CertificateRequestRefusedError, Revocation

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CA_KEY = ec.generate_private_key(ec.SECP256R1())
CA = DeviceCertificateAuthority(Authority(build_authority(CA_KEY, "test CA", NOW), CA_KEY))
DEVICE_KEY = ec.generate_private_key(ec.SECP256R1())


def request(
    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | dsa.DSAPrivateKey = DEVICE_KEY,
    subject: str = "anyone",
    *extensions: x509.ExtensionType,
) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.DER)


def issued(csr: bytes, device_id: str = "dev-1") -> x509.Certificate:
    return x509.load_pem_x509_certificates(CA.issue(csr, device_id, NOW).chain_pem.encode())[0]


def test_issue__lifetime__as_the_authority_was_told() -> None:
    brief = DeviceCertificateAuthority(
        Authority(build_authority(CA_KEY, "test CA", NOW), CA_KEY), lifetime=timedelta(hours=6)
    )
    assert brief.issue(request(), "dev-1", NOW).not_after_at == NOW + timedelta(hours=6)


def test_proven_key__any_subject__digest_of_the_key_that_is_certified() -> None:
    proven = CA.proven_key_sha256(request(DEVICE_KEY, "somebody"))
    assert proven == CA.issue(request(DEVICE_KEY, "else"), "dev-1", NOW).key_sha256
    assert proven != CA.proven_key_sha256(request(ec.generate_private_key(ec.SECP256R1())))


def test_proven_key__public_key_of_another_with_one_s_own_signature__refused() -> None:
    """The device's request with the signature of the attacker's over the same content."""
    own, theirs = (
        x509.load_der_x509_csr(request(key)) for key in (ec.generate_private_key(ec.SECP256R1()), DEVICE_KEY)
    )
    forged = theirs.public_bytes(serialization.Encoding.DER).replace(theirs.signature, own.signature)
    with pytest.raises(CertificateRequestRefusedError):
        CA.proven_key_sha256(forged)


def test_issue__subject_and_extensions_of_the_request__ignored() -> None:
    certificate = issued(
        request(
            DEVICE_KEY,
            "../#+ _director",
            x509.BasicConstraints(ca=True, path_length=None),
            x509.SubjectAlternativeName([x509.DNSName("fleet.example.org")]),
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
        )
    )
    assert certificate.subject.rfc4514_string() == "CN=dev-1"
    extensions = certificate.extensions
    assert extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(
        ca=False, path_length=None
    )
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.UniformResourceIdentifier("urn:modelfleet:device:dev-1")]
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert not usage.key_cert_sign


def test_issue__result__is_what_was_written_down() -> None:
    result = CA.issue(request(), "dev-1", NOW)
    leaf, authority = x509.load_pem_x509_certificates(result.chain_pem.encode())
    leaf.verify_directly_issued_by(authority)
    assert int(result.serial_hex, 16) == leaf.serial_number
    assert (result.not_before_at, result.not_after_at) == (leaf.not_valid_before_utc, leaf.not_valid_after_utc)
    assert result.not_after_at == NOW + timedelta(days=30)
    assert result.not_before_at <= NOW
    assert leaf.public_key() == DEVICE_KEY.public_key()


def test_issue__authority_about_to_expire__certificate_does_not_outlive_it() -> None:
    late = NOW + timedelta(days=3650 - 10)
    assert CA.issue(request(), "dev-1", late).not_after_at == NOW + timedelta(days=3650)


def test_issue__ed25519_key__signed() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    assert issued(request(key)).public_key() == key.public_key()


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP256K1()),
        dsa.generate_private_key(2048),
    ],
    ids=["rsa", "p-384", "secp256k1", "dsa"],
)
def test_issue__other_kind_of_key__refused(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | dsa.DSAPrivateKey,
) -> None:
    with pytest.raises(CertificateRequestRefusedError, match="expected EC P-256 or Ed25519"):
        CA.issue(request(key), "dev-1", NOW)


def test_issue__request_not_signed_by_its_key__refused() -> None:
    csr = bytearray(request())
    csr[-1] ^= 1
    with pytest.raises(CertificateRequestRefusedError):
        CA.issue(bytes(csr), "dev-1", NOW)


def test_issue__somebody_elses_key_in_the_request__refused() -> None:
    """A request whose key was exchanged for a victim's, to get a certificate over a key one does not hold."""
    victim = ec.generate_private_key(ec.SECP256R1())
    raw = serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    forged = request().replace(DEVICE_KEY.public_key().public_bytes(*raw), victim.public_key().public_bytes(*raw))
    with pytest.raises(CertificateRequestRefusedError, match="not signed by the key"):
        CA.issue(forged, "dev-1", NOW)


@pytest.mark.parametrize(
    "csr", [b"", b"\x30", b"-----BEGIN CERTIFICATE REQUEST-----", b"\x30\x82\xff\xff", bytes(9000)]
)
def test_issue__not_a_request__refused(csr: bytes) -> None:
    with pytest.raises(CertificateRequestRefusedError):
        CA.issue(csr, "dev-1", NOW)


@given(st.integers(0, len(request()) - 1), st.integers(1, 255))
def test_issue__any_byte_changed__refused_or_the_same_certificate(position: int, change: int) -> None:
    csr = bytearray(request())
    csr[position % len(csr)] ^= change
    try:
        certificate = issued(bytes(csr))
    except CertificateRequestRefusedError:
        return
    assert certificate.subject.rfc4514_string() == "CN=dev-1"


@pytest.mark.parametrize("device_id", ["", "_director", "#", "+", "dev-b/x", "../x", "Dev", "a b", "x" * 64, "dev-1\n"])
def test_issue__name_that_is_no_device_id__refused(device_id: str) -> None:
    with pytest.raises(MalformedNameError):
        CA.issue(request(), device_id, NOW)


def test_certs_only__chain__leaf_and_authority_come_back() -> None:
    chain = CA.issue(request(), "dev-1", NOW).chain_pem
    unpacked = pkcs7.load_der_pkcs7_certificates(CA.certs_only(chain))
    assert set(unpacked) == set(x509.load_pem_x509_certificates(chain.encode()))


def test_revocation_list__some_revoked__signed_and_valid_as_long_as_the_authority() -> None:
    serial_hex = CA.issue(request(), "dev-1", NOW).serial_hex
    crl = x509.load_pem_x509_crl(CA.revocation_list([Revocation(serial_hex, NOW)], NOW))
    assert crl.is_signature_valid(CA_KEY.public_key())
    assert [entry.serial_number for entry in crl] == [int(serial_hex, 16)]
    assert crl.next_update_utc == NOW + timedelta(days=3650)
