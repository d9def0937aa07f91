"""Who signs TUF metadata. securesystemslib's `Signer` already is this port, with adapters for files, KMS and PKCS#11.

Named here so that services and composition roots agree on one type, and so that the dependency shows among the ports.
"""

from securesystemslib.signer import Key, Signer

MetadataSigner = Signer
PublicKey = Key

__all__ = ["MetadataSigner", "PublicKey"]
