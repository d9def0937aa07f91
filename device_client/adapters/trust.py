"""`ports.Trust`: python-tuf twice, over the director's bundle and over the image repository.

Signatures, thresholds, versions, expiry and lengths are ngclient's. This module adds what it lacks:
- the director's metadata is verified in a scratch copy, which becomes ours (synced, renamed) only if the bundle is
  bound to this device; a foreign bundle, however well signed, leaves nothing behind but root rotations, which are
  the repository's and not the device's;
- high-water marks in the journal, so that files lost in a power cut do not allow a replay;
- a time floor: while the clock is before a time that was once signed, expiry cannot be judged and nothing is accepted.

Missing anchors are an error, never a reason to skip a check.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from tuf.api.exceptions import DownloadError, DownloadHTTPError, RepositoryError
from tuf.api.metadata import Metadata, Snapshot, TargetFile, Targets, Timestamp
from tuf.ngclient import FetcherInterface, Updater
from tuf.ngclient.config import UpdaterConfig

from device_client.adapters import durable
from device_client.core import acceptance
from device_client.core.acceptance import DirectorAnswer, SignedTarget
from device_client.core.deployment import Target
from device_client.core.errors import BindingError, ClockError, ConfigError, MetadataError, ReplayError, TransferError
from device_client.core.keys import DIRECTOR_KEY, FLOOR_KEY, SNAPSHOT_KEY
from device_client.ports import Clock, Journal
from device_client.wire.limits import MAX_MESSAGE_BYTES
from device_client.wire.messages import BundleMessage

BUNDLE_URL: Final = "bundle:///"
ROOT_HISTORY: Final = "root_history"
DIRECTOR_LIMITS: Final = UpdaterConfig(
    max_root_rotations=16,
    max_delegations=0,
    root_max_length=32_768,
    timestamp_max_length=4_096,
    snapshot_max_length=8_192,
    targets_max_length=MAX_MESSAGE_BYTES,
)
IMAGE_LIMITS: Final = UpdaterConfig(
    max_root_rotations=64,
    max_delegations=4,
    root_max_length=65_536,
    timestamp_max_length=4_096,
    snapshot_max_length=1_000_000,
    targets_max_length=2_000_000,
)


class BundleFetcher(FetcherInterface):
    """Serves the files of one bundle as if they came from a server; what is not in it does not exist."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._files = files

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = unquote(url.removeprefix(BUNDLE_URL))
        if name not in self._files:
            raise DownloadHTTPError(f"no {name} in the bundle", 404)
        return iter([self._files[name].encode()])


class TufTrust:
    """Both repositories of one device. Not for two processes at once: the agent holds the state directory's lock."""

    def __init__(
        self,
        directory: Path,
        *,
        device_id: str,
        director_root: bytes,
        image_root: bytes,
        image_url: str,
        fetcher: FetcherInterface,
        journal: Journal,
        clock: Clock,
        floor: datetime,
    ) -> None:
        if not director_root or not image_root:
            raise ConfigError("expected the roots of both repositories, got an empty one")
        self._directory = durable.make_directory(directory)
        self._device_id = device_id
        self._director_root = director_root
        self._image_root = image_root
        self._image_url = image_url.rstrip("/") + "/metadata/"
        self._fetcher = fetcher
        self._journal = journal
        self._clock = clock
        self._floor = floor

    def accept(self, bundle: BundleMessage, nonce: str) -> DirectorAnswer:
        self._require_clock()
        if bundle.nonce != nonce:
            raise BindingError(f"expected the answer to nonce {nonce}, got one to {bundle.nonce}")
        ours, scratch = self._directory / "director", self._directory / "director.new"
        aside = self._directory / "director.old"
        if aside.is_dir() and not ours.is_dir():
            aside.rename(ours)  # a power cut came between the two renames of a replacement
        shutil.rmtree(scratch, ignore_errors=True)
        if ours.is_dir():
            shutil.copytree(ours, scratch, symlinks=True)
        scratch.mkdir(mode=durable.PRIVATE_DIRECTORY, exist_ok=True)
        try:
            answer = self._read_director(scratch, bundle, nonce)
        except (BindingError, MetadataError, ReplayError):
            self._keep_roots(scratch, ours)
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        _replace_directory(scratch, ours)
        self._raise_marks(answer)
        return answer

    def authorise(self, target: Target) -> None:
        self._require_clock()
        metadata = durable.make_directory(self._directory / "image")
        try:
            updater = Updater(
                str(metadata), self._image_url, fetcher=self._fetcher, config=IMAGE_LIMITS, bootstrap=self._image_root
            )
            updater.refresh()
            version = Metadata[Snapshot].from_file(str(metadata / "snapshot.json")).signed.version
            mark = int(self._journal.recall(SNAPSHOT_KEY) or 0)
            if version < mark:
                raise ReplayError(f"expected an image snapshot of at least version {mark}, got {version}")
            found = updater.get_targetinfo(target.path)
        except DownloadError as error:
            raise TransferError(f"image repository: {error}"[:300]) from error
        except (RepositoryError, ValueError) as error:
            raise MetadataError(f"image repository: {error}"[:300]) from error
        durable.sync_tree(metadata)
        if version > mark:
            self._journal.remember({SNAPSHOT_KEY: str(version)})
        acceptance.agree(target, None if found is None else _signed(found))

    def _require_clock(self) -> None:
        now, floor = self._clock.now(), self.floor()
        if now < floor:
            raise ClockError(f"expected a clock at or after {floor.isoformat()}, got {now.isoformat()}")

    def floor(self) -> datetime:
        """The latest time that this device knows to have passed."""
        stored = int(self._journal.recall(FLOOR_KEY) or 0)
        return max(self._floor, datetime.fromtimestamp(stored, tz=timezone.utc))

    def _read_director(self, scratch: Path, bundle: BundleMessage, nonce: str) -> DirectorAnswer:
        try:
            updater = Updater(
                str(scratch),
                BUNDLE_URL,
                fetcher=BundleFetcher(bundle.director),
                config=DIRECTOR_LIMITS,
                bootstrap=self._director_root,
            )
            updater.refresh()
            # What ngclient has just verified and stored in our private directory.
            targets = Metadata[Targets].from_file(str(scratch / "targets.json")).signed
            version = Metadata[Timestamp].from_file(str(scratch / "timestamp.json")).signed.version
        except (RepositoryError, DownloadError, ValueError) as error:
            raise MetadataError(f"director bundle: {error}"[:300]) from error
        mark = int(self._journal.recall(DIRECTOR_KEY) or 0)
        if version < mark:
            raise ReplayError(f"expected director metadata of at least version {mark}, got {version}")
        return acceptance.read_answer(
            [_signed(target) for target in targets.targets.values()],
            device_id=self._device_id,
            nonce=nonce,
            tickets=bundle.tickets,
            director_version=version,
            has_delegations=targets.delegations is not None,
        )

    def _keep_roots(self, scratch: Path, ours: Path) -> None:
        """Root rotations that ngclient verified hold for every device, whoever the bundle was for."""
        kept = ours / ROOT_HISTORY
        for path in sorted((scratch / ROOT_HISTORY).glob("*.root.json")):
            if not (kept / path.name).exists():
                durable.make_directory(kept)
                durable.write_file(kept / path.name, path.read_bytes())

    def _raise_marks(self, answer: DirectorAnswer) -> None:
        """Remember what was seen. The floor never passes our own clock: a signed time ahead of it proves nothing."""
        known = int(self._journal.recall(FLOOR_KEY) or 0)
        issued = min(answer.binding.issued_at, int(self._clock.now().timestamp()))
        self._journal.remember({DIRECTOR_KEY: str(answer.director_version), FLOOR_KEY: str(max(known, issued))})


def _signed(target: TargetFile) -> SignedTarget:
    """The plain form of a target; raises `MetadataError` unless it has exactly one hash, of SHA-256."""
    if set(target.hashes) != {"sha256"}:
        raise MetadataError(f"expected one sha256 for {target.path[:80]}, got {sorted(target.hashes)}")
    return SignedTarget(target.path, target.hashes["sha256"], target.length, target.custom)


def _replace_directory(new: Path, old: Path) -> None:
    """`old` becomes `new`. A cut in between leaves `<old>.old`, which `accept` puts back."""
    durable.sync_tree(new)
    aside = old.with_name(f"{old.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if old.exists():
        old.rename(aside)
    new.rename(old)
    durable.sync_directory(old.parent)
    shutil.rmtree(aside, ignore_errors=True)


def explain_metadata(directory: Path) -> dict[str, object]:
    """Which metadata versions and expiries this device holds, for people; reads only."""
    shown: dict[str, object] = {}
    for name in ("director/timestamp", "director/targets", "image/timestamp", "image/snapshot"):
        path = directory / f"{name}.json"
        if path.exists() and os.access(path, os.R_OK):
            signed = json.loads(path.read_bytes()).get("signed", {})
            shown[name] = {"version": signed.get("version"), "expires": signed.get("expires")}
    return shown
