"""Signers whose private key is an unencrypted PEM file: the server's own online keys."""

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner

from fleet.ports.signer import MetadataSigner


def signer_from_pem(pem: bytes) -> MetadataSigner:
    """A signer over a PKCS#8 PEM private key."""
    return CryptoSigner(load_pem_private_key(pem, password=None))
