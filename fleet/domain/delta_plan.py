"""Which patches are worth making before a version is offered, in which order, and which are not. Pure: counts in, lists out.

Every pair of what devices run and what they would get is looked at, so a device that skipped versions gets a patch too, and
so does one that changes its variant. Of each pair it asks for the codecs that these very devices can apply:

- `tensor1` where a device has it, and its portable kind only where a device has that and no more;
- `bsdiff4` for files of at most `SMALL_BYTES`, where trying it beside the other costs little, and for larger ones only
  where devices can apply nothing else.

What no other patch serves comes first, by the bytes that are at stake; second candidates follow. What the budget has no
room for is left out, with the reason, and what is smaller may still fit behind it. It knows no names, and no time.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from device_client.wire.bundles import Contract
from device_client.wire.delta import Codec
from device_client.wire.messages import Capabilities
from fleet.domain.delta_sizes import BSDIFF4_MAX_BYTES, MIB, SMALL_BYTES
from fleet.domain.facts import Build
from fleet.domain.matching import match

# CPU seconds of making and proving a patch, for each MiB of the larger file, rounded up from `python -m tests.bench.delta`.
FIXED_CPU_S: Final = 0.5
CPU_S_PER_MIB: Final[Mapping[Codec, float]] = {
    Codec.TENSOR1: 0.06,
    Codec.TENSOR1_PORTABLE: 1.0,
    Codec.BSDIFF4: 4.0,
}


@dataclass(frozen=True)
class Group:
    """Devices that run one weights file and are alike in what decides which variant and which patch they get."""

    weights_sha256: str
    hardware_class: str
    capabilities: Capabilities
    devices: int
    contract: Contract | None = None


@dataclass(frozen=True)
class Demand:
    """Devices that would go from one weights file to another, and the codecs that each of them can apply."""

    old_sha256: str
    new_sha256: str
    codecs: frozenset[Codec]
    devices: int


@dataclass(frozen=True)
class Wanted:
    """One patch to make. `devices` can use it, `depending` of them can use no other; `cpu_s` is an estimate."""

    old_sha256: str
    new_sha256: str
    codec: Codec
    devices: int
    depending: int
    new_bytes: int
    cpu_s: float


@dataclass(frozen=True)
class LeftOut:
    """A patch that is not made, and why."""

    wanted: Wanted
    reason: str


@dataclass(frozen=True)
class Budget:
    """What the patches to one version may take: CPU seconds, and bytes of new files (no patch that is kept is larger)."""

    cpu_s: float
    new_bytes: int


@dataclass(frozen=True)
class DeltaPlan:
    """What to build, the most urgent first, and what not."""

    builds: tuple[Wanted, ...]
    left_out: tuple[LeftOut, ...]


def demands(groups: Iterable[Group], builds: Sequence[Build]) -> tuple[Demand, ...]:
    """Who would go from which weights to which, by the same matching that the director answers with.

    Devices for which no variant fits, that run the target's weights already or that know no codec ask for nothing. One row
    for each pair and set of codecs, in a fixed order.
    """
    counts: dict[tuple[str, str, frozenset[Codec]], int] = {}
    for group in groups:
        codecs = applicable(group.capabilities.codecs)
        if not group.weights_sha256 or group.devices <= 0 or not codecs:
            continue
        build = match(builds, group.hardware_class, group.capabilities, group.contract).build
        if build is None or build.manifest.weights.sha256 == group.weights_sha256:
            continue
        key = (group.weights_sha256, build.manifest.weights.sha256, codecs)
        counts[key] = counts.get(key, 0) + group.devices
    ordered = sorted(counts.items(), key=lambda item: (item[0][0], item[0][1], sorted(item[0][2])))
    return tuple(Demand(old, new, codecs, devices) for (old, new, codecs), devices in ordered)


def applicable(names: Iterable[str]) -> frozenset[Codec]:
    """Those of the codecs that a device advertises that exist."""
    known = {codec.value: codec for codec in Codec}
    return frozenset(known[name] for name in names if name in known)


def worthwhile(can: frozenset[Codec], *, is_small: bool) -> tuple[Codec, ...]:
    """The codecs that are worth making, and waiting for, for a device that can apply `can`; the one it depends on first."""
    best = next((codec for codec in (Codec.TENSOR1, Codec.TENSOR1_PORTABLE) if codec in can), None)
    if best is None:
        return (Codec.BSDIFF4,) if Codec.BSDIFF4 in can else ()
    return (best, Codec.BSDIFF4) if is_small and Codec.BSDIFF4 in can else (best,)


def plan(
    wanted_by: Iterable[Demand],
    sizes: Mapping[str, int],
    budget: Budget,
    known: Collection[tuple[str, str, Codec]] = frozenset(),
) -> DeltaPlan:
    """What to build within `budget`. `sizes` are the bytes of the weights files that exist: others are no one's old file.

    `known` (old, new, codec) are patches that are being made, are there, or were found to be useless: they are not asked for
    again, and count as spent.
    """
    asked = sorted(_asked(wanted_by, sizes), key=_urgency)
    spent = [item for item in asked if _key(item) in known]
    cpu_s, new_bytes = sum(item.cpu_s for item in spent), sum(item.new_bytes for item in spent)
    builds: list[Wanted] = []
    left_out: list[LeftOut] = []
    for item in asked:
        if _key(item) in known:
            continue
        reason = _objection(item, sizes, budget, cpu_s, new_bytes)
        if reason:
            left_out.append(LeftOut(item, reason))
            continue
        builds.append(item)
        cpu_s += item.cpu_s
        new_bytes += item.new_bytes
    return DeltaPlan(tuple(builds), tuple(left_out))


def estimated_cpu_s(codec: Codec, old_bytes: int, new_bytes: int) -> float:
    """What making and proving a patch is expected to take, in CPU seconds."""
    return FIXED_CPU_S + CPU_S_PER_MIB[codec] * max(old_bytes, new_bytes) / MIB


def _asked(wanted_by: Iterable[Demand], sizes: Mapping[str, int]) -> Iterable[Wanted]:
    pairs: dict[tuple[str, str], list[Demand]] = {}
    for demand in wanted_by:
        if demand.devices > 0 and demand.old_sha256 in sizes and demand.new_sha256 in sizes:
            pairs.setdefault((demand.old_sha256, demand.new_sha256), []).append(demand)
    for (old, new), of_pair in pairs.items():
        is_small = max(sizes[old], sizes[new]) <= SMALL_BYTES
        needed: dict[Codec, list[int]] = {}
        for demand in of_pair:
            wants = worthwhile(demand.codecs, is_small=is_small)
            for codec in wants:
                counts = needed.setdefault(codec, [0, 0])
                counts[0] += demand.devices
                counts[1] += demand.devices if codec is wants[0] else 0
        for codec, (devices, depending) in needed.items():
            cpu_s = estimated_cpu_s(codec, sizes[old], sizes[new])
            yield Wanted(old, new, codec, devices, depending, sizes[new], cpu_s)


def _urgency(item: Wanted) -> tuple[bool, int, int, str, str, str]:
    stake = item.depending or item.devices
    return (item.depending == 0, -stake * item.new_bytes, -stake, item.old_sha256, item.new_sha256, item.codec.value)


def _key(item: Wanted) -> tuple[str, str, Codec]:
    return item.old_sha256, item.new_sha256, item.codec


def _objection(item: Wanted, sizes: Mapping[str, int], budget: Budget, cpu_s: float, new_bytes: int) -> str:
    """Why a patch is not made, or nothing."""
    largest = max(sizes[item.old_sha256], item.new_bytes)
    if item.codec is Codec.BSDIFF4 and largest > BSDIFF4_MAX_BYTES:
        return f"bsdiff4 takes files of at most {BSDIFF4_MAX_BYTES} bytes, this one has {largest}"
    if cpu_s + item.cpu_s > budget.cpu_s:
        return f"takes about {item.cpu_s:.0f} s of CPU, {max(0.0, budget.cpu_s - cpu_s):.0f} s of the budget are left"
    if new_bytes + item.new_bytes > budget.new_bytes:
        return f"is for {item.new_bytes} bytes, {max(0, budget.new_bytes - new_bytes)} bytes of the budget are left"
    return ""
