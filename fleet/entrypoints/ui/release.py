"""Versions and deltas as the pages list them: put together from what several selectors tell. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from device_client.wire.states import Transport
from fleet.apps.devices.records import RunningCount
from fleet.apps.registry.records import AliasRecord, DeltaRecord, DeltaSavings, VersionRecord
from fleet.apps.telemetry.records import VersionSummary
from fleet.apps.telemetry.savings import Saving
from fleet.domain.delta_states import DeltaState


@dataclass(frozen=True)
class VersionLine:
    """One version in a list. `summary` is None for a version of which nothing was measured."""

    version: VersionRecord
    aliases: tuple[str, ...]
    summary: VersionSummary | None
    devices: int
    online: int


def version_lines(
    versions: Iterable[VersionRecord],
    aliases: Iterable[AliasRecord],
    summaries: Iterable[VersionSummary],
    running: Iterable[RunningCount],
) -> tuple[VersionLine, ...]:
    """A line for each version, in the given order."""
    names: dict[str, list[str]] = {}
    for alias in aliases:
        names.setdefault(alias.version, []).append(alias.name)
    measured = {summary.version: summary for summary in summaries}
    counts: dict[str, tuple[int, int]] = {}
    for item in running:
        count, online = counts.get(item.version, (0, 0))
        counts[item.version] = (count + item.count, online + item.online)
    return tuple(
        VersionLine(
            version,
            tuple(names.get(version.label, ())),
            measured.get(version.label),
            *counts.get(version.label, (0, 0)),
        )
        for version in versions
    )


@dataclass(frozen=True)
class Parent:
    """A version and variant that a weights file was first released in."""

    label: str
    slug: str


def parents(versions: Iterable[VersionRecord]) -> Mapping[str, Parent]:
    """Where each weights file comes from, by its sha256; of several versions, the newest."""
    found: dict[str, Parent] = {}
    for version in versions:
        for variant in version.variants:
            found.setdefault(variant.weights_sha256, Parent(version.label, variant.slug))
    return found


@dataclass(frozen=True)
class Patch:
    """A delta into a version. `parent` is None where the old file belongs to no version that was looked at."""

    delta: DeltaRecord
    parent: Parent | None
    slug: str

    @classmethod
    def of(cls, delta: DeltaRecord, known: Mapping[str, Parent], version: VersionRecord) -> "Patch":
        """Name both ends of a delta."""
        slug = next((item.slug for item in version.variants if item.weights_sha256 == delta.new_sha256), "")
        return cls(delta, known.get(delta.old_sha256), slug)

    @property
    def share(self) -> float | None:
        """The patch's size as a share of the full file's."""
        if self.delta.state is not DeltaState.READY or not self.delta.new_bytes:
            return None
        return (self.delta.patch_bytes or 0) / self.delta.new_bytes


WAYS: Final = {Transport.FULL.value: "in full", Transport.NONE.value: "was on the device"}
MAX_UPDATE_LINES: Final = 40


@dataclass(frozen=True)
class UpdateLine:
    """Updates to one variant that came one way. `way` is for people: the patch's codec, or what came instead."""

    saving: Saving

    @property
    def way(self) -> str:
        """How the bytes came."""
        return WAYS.get(self.saving.transport) or f"by {self.saving.codec or 'a patch'}"

    @property
    def share_saved(self) -> float | None:
        """Of what full downloads would have taken; None where nothing was downloaded."""
        return self.saving.bytes_saved / self.saving.bytes_total if self.saving.bytes_total else None


def update_lines(savings: Iterable[Saving], versions: Iterable[VersionRecord]) -> tuple[UpdateLine, ...]:
    """The lines of these versions, in their order."""
    places = {version.label: place for place, version in enumerate(versions)}
    lines = [UpdateLine(item) for item in savings if item.version in places]
    return tuple(sorted(lines, key=lambda line: places[line.saving.version])[:MAX_UPDATE_LINES])


@dataclass(frozen=True)
class DeltaSizes:
    """What one download by each ready delta takes, and what it would take in full."""

    patch_bytes: int
    full_bytes: int


def delta_sizes(savings: Iterable[DeltaSavings]) -> DeltaSizes:
    """The sizes of several models together."""
    items = tuple(savings)
    return DeltaSizes(sum(item.patch_bytes for item in items), sum(item.full_bytes for item in items))
