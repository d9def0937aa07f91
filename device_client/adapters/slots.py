"""Slots on a file system: `models/<model>/<digest>/`, immutable once they have that name.

A slot is prepared in `.staging-<digest>`, checked file by file against its manifest, synced, and renamed: a directory
that bears a digest as its name is complete. `current`, `previous` and `factory` are symlinks that are replaced by
rename. Reading a slot hashes the very bytes that it returns, so nothing can be swapped between check and use.
"""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Final

from device_client.adapters import durable
from device_client.core.errors import DigestMismatchError, SlotDamagedError
from device_client.core.keys import GIVEN_UP
from device_client.ports import Links, OpenSlot
from device_client.wire.bundles import BundleFile, Manifest
from device_client.wire.errors import WireError
from device_client.wire.limits import MAX_MANIFEST_BYTES
from device_client.wire.names import SHA256, parse_model, parse_sha256

MANIFEST: Final = ".manifest.json"  # no file of a bundle can be called so: their names begin with a letter or digit
STAGING_PREFIX: Final = ".staging-"
CHUNK_BYTES: Final = 1 << 20
READ_ONLY: Final = 0o400


class FileSlots:
    """`ports.Slots` below one directory that only this user may enter."""

    def __init__(self, root: Path) -> None:
        self._root = durable.make_directory(root)

    def _model(self, model: str) -> Path:
        return self._root / parse_model(model)

    def _slot(self, model: str, digest: str) -> Path:
        return self._model(model) / parse_sha256(digest)

    def _staged(self, model: str, digest: str) -> Path:
        return self._model(model) / f"{STAGING_PREFIX}{parse_sha256(digest)}"

    def links(self, model: str) -> Links:
        return Links(*(self._linked(model, name) for name in ("current", "previous", "factory")))

    def _linked(self, model: str, name: str) -> str:
        try:
            target = os.readlink(self._model(model) / name)  # noqa: PTH115 - the bare text, not a path
        except OSError:
            return ""
        return target if SHA256.fullmatch(target) and (self._model(model) / target).is_dir() else ""

    def holds(self, model: str, digest: str) -> Manifest | None:
        try:
            return _read_manifest(self._slot(model, digest), digest)
        except (OSError, SlotDamagedError):
            return None

    def open(self, model: str, digest: str) -> OpenSlot:
        slot = self._slot(model, digest)
        try:
            manifest = _read_manifest(slot, digest)
            files = {file.name: _read_file(slot, file) for file in manifest.files}
        except OSError as error:
            raise SlotDamagedError(f"expected a readable slot {model}/{digest[:16]}, got {error}") from error
        return OpenSlot(manifest, digest, files)

    def blob(self, model: str, sha256: str) -> Path | None:
        for slot in self._slots(model):
            manifest = self.holds(model, slot.name)
            for file in manifest.files if manifest is not None else ():
                if file.sha256 == sha256 and (slot / file.name).is_file():
                    return slot / file.name
        return None

    def _slots(self, model: str) -> list[Path]:
        folder = self._model(model)
        if not folder.is_dir():
            return []
        return sorted(path for path in folder.iterdir() if SHA256.fullmatch(path.name) and not path.is_symlink())

    def staging(self, model: str, digest: str) -> Path:
        return durable.make_directory(self._staged(model, digest))

    def give_up(self, model: str, sha256: str, output: Path) -> None:
        doomed = output.with_name(GIVEN_UP)
        held = self.blob(model, sha256)
        if held is not None and not output.exists() and not doomed.exists():
            held.parent.rename(doomed)  # at once: what bears a digest as its name is complete
            durable.sync_directory(self._model(model))
            durable.sync_directory(doomed.parent)
        for file in _read_manifest_of(doomed).files if doomed.exists() and not output.exists() else ():
            if file.sha256 == sha256:
                (doomed / file.name).rename(output)
                output.chmod(durable.PRIVATE_FILE)
                durable.sync_directory(doomed)
                durable.sync_directory(output.parent)
        shutil.rmtree(doomed, ignore_errors=True)
        if not output.exists():
            raise SlotDamagedError(f"expected a slot with the file {sha256[:16]}, got none")

    def publish(self, model: str, manifest: Manifest) -> None:
        digest = manifest.digest
        staged, slot = self._staged(model, digest), self._slot(model, digest)
        if not staged.is_dir() and self.holds(model, digest) is not None:
            return  # a power cut came between the rename and the journal
        for file in manifest.files:
            _check_file(staged / file.name, file)
        durable.write_file(staged / MANIFEST, manifest.encode())
        listed = {MANIFEST, *(file.name for file in manifest.files)}
        for path in staged.iterdir():
            if path.name in listed:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        for name in listed:
            (staged / name).chmod(READ_ONLY)
        durable.sync_tree(staged)
        if slot.exists():
            shutil.rmtree(slot)
        staged.rename(slot)
        durable.sync_directory(slot.parent)

    def point(self, model: str, *, current: str, previous: str) -> None:
        for name, digest in (("previous", previous), ("current", current)):
            path = self._model(model) / name
            if digest:
                durable.link(path, parse_sha256(digest))
            elif path.is_symlink():
                path.unlink()
                durable.sync_directory(path.parent)

    def discard(self, model: str, digest: str, *, slot: bool = False) -> None:
        shutil.rmtree(self._staged(model, digest), ignore_errors=True)
        if slot:
            shutil.rmtree(self._slot(model, digest), ignore_errors=True)

    def collect(self, model: str, keep: frozenset[str]) -> None:
        links = self.links(model)
        kept = keep | {links.current, links.previous, links.factory}
        for slot in self._slots(model):
            if slot.name not in kept:
                shutil.rmtree(slot, ignore_errors=True)
        folder = self._model(model)
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name.startswith(STAGING_PREFIX) and path.name.removeprefix(STAGING_PREFIX) not in keep:
                shutil.rmtree(path, ignore_errors=True)

    def free_bytes(self) -> int:
        return shutil.disk_usage(self._root).free


def _read_manifest(slot: Path, digest: str) -> Manifest:
    with (slot / MANIFEST).open("rb") as file:
        payload = file.read(MAX_MANIFEST_BYTES + 1)
    if hashlib.sha256(payload).hexdigest() != digest:
        raise SlotDamagedError(f"expected the manifest with digest {digest[:16]}, got another one")
    try:
        return Manifest.parse(payload)
    except WireError as error:
        raise SlotDamagedError(f"slot {digest[:16]}: {error}") from error


def _read_manifest_of(slot: Path) -> Manifest:
    """The manifest of a slot that no longer bears its digest as its name."""
    return _read_manifest(slot, hashlib.sha256((slot / MANIFEST).read_bytes()).hexdigest())


def _read_file(slot: Path, file: BundleFile) -> bytes:
    with (slot / file.name).open("rb") as reader:
        content = reader.read(file.length + 1)
    if len(content) != file.length or hashlib.sha256(content).hexdigest() != file.sha256:
        raise SlotDamagedError(f"expected {file.name} with sha256 {file.sha256[:16]}, got other bytes")
    return content


def _check_file(path: Path, file: BundleFile) -> None:
    """The staged file is the signed one: whole length, whole hash; raises `DigestMismatchError`."""
    hasher = hashlib.sha256()
    try:
        with path.open("rb") as reader:
            length = os.fstat(reader.fileno()).st_size
            while chunk := reader.read(CHUNK_BYTES):
                hasher.update(chunk)
    except OSError as error:
        raise DigestMismatchError(f"expected the staged file {file.name}, got {error}") from error
    if length != file.length or hasher.hexdigest() != file.sha256:
        raise DigestMismatchError(
            f"expected {file.name} of {file.length} bytes with sha256 {file.sha256[:16]}, "
            f"got {length} bytes with sha256 {hasher.hexdigest()[:16]}"
        )
