"""A key set as a directory that only its owner can read.

    keys.json            public halves and where each private half is: a file of this directory or a signer URI
    <name>.pem           private halves, PKCS#8, encrypted unless asked otherwise; absent where they are not needed
    anchors/<name>.json  the first signed roots and targets, as they were imported
    signed.json          by role, the highest version that was signed with this set, and the hash of its bytes
    published/           what `tuf.ngclient` verified last
    .lock                held while signed.json changes: several pushes may share the set

A pipeline needs keys.json, pipeline.pem, anchors/image-root.json and signed.json. Without signed.json a hostile server
could serve an older role, validly signed and not yet expired, and have a removed version signed again on top of it.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import SIGNER_FOR_URI_SCHEME, CryptoSigner, Key, Signer, SSlibKey

from fleet.adapters.file_locks import exclusive
from fleet.adapters.pki_files import write_atomically
from fleet.domain.repository import Profile
from fleet.ports.key_sets import AnchorName, KeyName, KeySetUnusableError, Passphrase, RecordedRole

FORMAT: Final = 1
KEYS_FILE: Final = "keys.json"
RECORD_FILE: Final = "signed.json"
LOCK_FILE: Final = ".lock"
FILE_SCHEME: Final = "file:"
ENCRYPTED_MARK: Final = b"ENCRYPTED PRIVATE KEY"


class KeyDirectory:
    """An existing key set. Reading is lazy: a pipeline's copy needs only the files it uses."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def published(self) -> Path:
        """Where verified metadata is kept."""
        return self.directory / "published"

    def public_keys(self) -> Mapping[KeyName, Key]:
        return {name: key for name, (key, _) in self._keys().items()}

    def signer(self, name: KeyName, passphrase: Passphrase) -> Signer:
        keys = self._keys()
        if name not in keys:
            raise KeySetUnusableError(f"{self.directory / KEYS_FILE} names no key {name.value!r}")
        key, uri = keys[name]
        if uri.startswith(FILE_SCHEME):
            return self._file_signer(name, key, self.directory / uri.removeprefix(FILE_SCHEME), passphrase)
        try:
            return Signer.from_priv_key_uri(uri, key)
        except Exception as error:
            known = ", ".join(sorted(SIGNER_FOR_URI_SCHEME))
            raise KeySetUnusableError(f"{name.value}: cannot use {uri} ({error}); known schemes: {known}") from error

    def anchor(self, name: AnchorName) -> bytes:
        return self._read(f"anchors/{name.value}.json")

    def recorded(self) -> Mapping[str, RecordedRole]:
        if not (self.directory / RECORD_FILE).exists():
            return {}
        document = self._object(RECORD_FILE)
        try:
            return {
                role: RecordedRole(
                    int(entry["version"]),
                    str(entry["sha256"]),
                    Profile(entry["profile"]) if entry.get("profile") else None,
                )
                for role, entry in document["roles"].items()
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise KeySetUnusableError(
                f"{self.directory / RECORD_FILE}: expected roles with versions, {error!r}"
            ) from error

    def record(self, role: str, entry: RecordedRole) -> None:
        try:
            with exclusive(self.directory / LOCK_FILE):
                self._record(role, entry)
        except OSError as error:
            raise KeySetUnusableError(f"cannot lock {self.directory / LOCK_FILE}: {error.strerror}") from error

    def _record(self, role: str, entry: RecordedRole) -> None:
        entries = dict(self.recorded())
        if role in entries and entries[role].version >= entry.version:
            return  # another push was faster and has signed on top of this one
        entries[role] = entry
        document = {
            "v": FORMAT,
            "roles": {
                name: {
                    "version": item.version,
                    "sha256": item.sha256,
                    **({"profile": item.profile.value} if item.profile else {}),
                }
                for name, item in sorted(entries.items())
            },
        }
        self._write(RECORD_FILE, json.dumps(document, indent=2).encode() + b"\n", 0o600)

    def _keys(self) -> Mapping[KeyName, tuple[Key, str]]:
        document = self._object(KEYS_FILE)
        try:
            return {
                KeyName(name): (Key.from_dict(entry["keyid"], dict(entry["key"])), str(entry["uri"]))
                for name, entry in document["keys"].items()
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise KeySetUnusableError(
                f"{self.directory / KEYS_FILE}: expected keys with their URIs, {error!r}"
            ) from error

    def _file_signer(self, name: KeyName, key: Key, path: Path, passphrase: Passphrase) -> Signer:
        content = self._read_path(path)
        if path.stat().st_mode & 0o077:
            raise KeySetUnusableError(f"{path} can be read by others: expected mode 600 (chmod 600 {path})")
        secret = passphrase() if ENCRYPTED_MARK in content else None
        if ENCRYPTED_MARK in content and not secret:
            raise KeySetUnusableError(f"{path} is encrypted: expected a passphrase, got none")
        try:
            private = load_pem_private_key(content, secret)
        except (ValueError, TypeError) as error:
            expected = "another passphrase" if secret else "a private key in PEM"
            raise KeySetUnusableError(f"cannot open {path}: expected {expected}") from error
        if not isinstance(key, SSlibKey):
            raise KeySetUnusableError(f"{name.value}: {key.keytype} keys cannot be files")
        try:
            return CryptoSigner(private, key)
        except Exception as error:
            raise KeySetUnusableError(f"{path} is not the {name.value} key that {KEYS_FILE} names: {error}") from error

    def _object(self, name: str) -> dict[str, Any]:
        try:
            document = json.loads(self._read(name))
        except ValueError as error:
            raise KeySetUnusableError(f"{self.directory / name} is not JSON: {error}") from error
        if not isinstance(document, dict) or document.get("v") != FORMAT:
            raise KeySetUnusableError(f"{self.directory / name}: expected format {FORMAT} of a key set")
        return document

    def _read(self, name: str) -> bytes:
        if not (self.directory / KEYS_FILE).exists():
            raise KeySetUnusableError(
                f"{self.directory} is not a key set: expected {KEYS_FILE} in it (`modelfleet keys init` makes one)"
            )
        return self._read_path(self.directory / name)

    def _read_path(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise KeySetUnusableError(f"{path} is missing") from None
        except OSError as error:
            raise KeySetUnusableError(f"cannot read {path}: {error.strerror}") from error

    def _write(self, name: str, content: bytes, mode: int) -> None:
        try:
            write_atomically(self.directory / name, content, mode)
        except OSError as error:
            raise KeySetUnusableError(f"cannot write {self.directory / name}: {error.strerror}") from error


def generate_signers() -> dict[KeyName, CryptoSigner]:
    """New Ed25519 keys of every name, in memory."""
    return {name: CryptoSigner(Ed25519PrivateKey.generate()) for name in KeyName}


def write_key_set(
    directory: Path,
    signers: Mapping[KeyName, CryptoSigner],
    anchors: Mapping[AnchorName, bytes],
    passphrase: bytes | None,
) -> KeyDirectory:
    """Write a new key set, whole or not at all. Raises KeySetUnusableError if `directory` exists and is not empty."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise KeySetUnusableError(
                f"{directory} exists: expected a new or empty directory; keys are never overwritten"
            )
        partial = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    except OSError as error:
        raise KeySetUnusableError(f"cannot write {error.filename or directory}: {error.strerror}") from error
    try:
        _fill(partial, signers, anchors, BestAvailableEncryption(passphrase) if passphrase else NoEncryption())
        partial.rename(directory)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise KeySetUnusableError(f"cannot write {directory}: {error.strerror}") from error
    return KeyDirectory(directory)


def _fill(
    directory: Path,
    signers: Mapping[KeyName, CryptoSigner],
    anchors: Mapping[AnchorName, bytes],
    encryption: KeySerializationEncryption,
) -> None:
    (directory / "anchors").mkdir(mode=0o700)
    for anchor, content in anchors.items():
        write_atomically(directory / "anchors" / f"{anchor.value}.json", content, 0o644)
    keys: dict[str, object] = {}
    for name, signer in signers.items():
        private = load_pem_private_key(signer.private_bytes, None)
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
        write_atomically(directory / f"{name.value}.pem", pem, 0o600)
        keys[name.value] = {
            "keyid": signer.public_key.keyid,
            "key": signer.public_key.to_dict(),
            "uri": f"{FILE_SCHEME}{name.value}.pem",
        }
    content = json.dumps({"v": FORMAT, "keys": keys}, indent=2).encode() + b"\n"
    write_atomically(directory / KEYS_FILE, content, 0o644)
    directory.chmod(0o700)
