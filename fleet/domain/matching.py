"""Which variant of a version a device gets, or why none fits. Decided from probed capabilities, never from a label.

An unknown opset or IR limit does not satisfy a requirement: what cannot be judged is not a match. Unknown memory or
disk (zero) does, because the device checks both again before it downloads anything.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from device_client.wire.bundles import Contract, Manifest, Tensor
from device_client.wire.messages import Capabilities
from device_client.wire.names import ANY_HARDWARE, hardware_part
from fleet.domain.facts import Build

# From the most exact to the smallest; a device that lists precisions brings its own order.
PRECISION_ORDER: Final = ("fp64", "fp32", "bf16", "fp16", "int16", "int8", "uint8", "int4")


@dataclass(frozen=True)
class Considered:
    """One variant and every reason why this device cannot run it; no reasons means that it can."""

    slug: str
    digest: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Match:
    """The chosen build, if any fits, and what was considered on the way, best first."""

    build: Build | None
    considered: tuple[Considered, ...]

    @property
    def why_not(self) -> str:
        """One sentence: what stood against each variant."""
        return "; ".join(f"{item.slug}: {', '.join(item.reasons)}" for item in self.considered if item.reasons)


def match(
    builds: Sequence[Build], hardware_class: str, capabilities: Capabilities, contract: Contract | None = None
) -> Match:
    """Choose among the builds of one version. The same input gives the same choice whatever the builds' order.

    Preference: made for this device's class or accelerator before made for any hardware; then the device's own order of
    precisions, or `PRECISION_ORDER`; then the slug.
    """
    ranked = sorted(builds, key=lambda build: _rank(build, capabilities))
    considered = tuple(
        Considered(build.slug, build.digest, tuple(_objections(build.manifest, hardware_class, capabilities, contract)))
        for build in ranked
    )
    fitting = (build for build, item in zip(ranked, considered, strict=True) if not item.reasons)
    return Match(next(fitting, None), considered)


def _rank(build: Build, capabilities: Capabilities) -> tuple[bool, int, str]:
    variant = build.manifest.variant
    order = capabilities.precisions or PRECISION_ORDER
    position = order.index(variant.precision) if variant.precision in order else len(order)
    return (variant.hardware == ANY_HARDWARE, position, variant.slug)


def _objections(
    manifest: Manifest, hardware_class: str, capabilities: Capabilities, contract: Contract | None
) -> Iterator[str]:
    variant, needs = manifest.variant, manifest.requirements
    if variant.runtime not in capabilities.runtimes:
        has = ", ".join(sorted(capabilities.runtimes)) or "none"
        yield f"needs the runtime {variant.runtime}, the device has {has}"
    if capabilities.precisions and variant.precision not in capabilities.precisions:
        yield f"is {variant.precision}, the device takes {', '.join(capabilities.precisions)}"
    if variant.hardware not in (ANY_HARDWARE, hardware_part(hardware_class), *capabilities.accelerators):
        has = ", ".join(capabilities.accelerators) or "no accelerator"
        yield f"is made for {variant.hardware}, the device is {hardware_class} with {has}"
    for name, needed, limit in (
        ("opset", needs.opset, capabilities.max_opset),
        ("IR version", needs.ir_version, capabilities.max_ir_version),
    ):
        if needed > limit:
            yield f"needs {name} {needed}, the device's runtime reads up to {limit or 'an unknown one'}"
    for name, needed, available in (
        ("memory", needs.ram_bytes, capabilities.ram_bytes),
        ("disk", max(needs.disk_bytes, manifest.content_bytes), capabilities.disk_bytes),
    ):
        if available and needed > available:
            yield f"needs {needed} bytes of {name}, the device has {available}"
    if contract is not None:
        yield from _breaches(manifest.contract, contract)


def _breaches(offered: Contract, wanted: Contract) -> Iterator[str]:
    """Where a variant does not keep the contract that the device's application was written for."""
    for kind, has, needs in (
        ("input", offered.inputs, wanted.inputs),
        ("output", offered.outputs, wanted.outputs),
    ):
        for name, tensor in needs.items():
            if name not in has:
                yield f"has no {kind} {name!r}, which the application uses"
            elif not _compatible(has[name], tensor):
                yield f"has {kind} {name!r} as {_shown(has[name])}, the application expects {_shown(tensor)}"
    for name in offered.inputs:
        if wanted.inputs and name not in wanted.inputs:
            yield f"has an input {name!r} that the application does not feed"
    if wanted.labels_sha256 and offered.labels_sha256 != wanted.labels_sha256:
        yield "has other labels than the application expects"


def _compatible(has: Tensor, needs: Tensor) -> bool:
    return (
        has.dtype == needs.dtype
        and len(has.shape) == len(needs.shape)
        and all(a is None or b is None or a == b for a, b in zip(has.shape, needs.shape, strict=True))
    )


def _shown(tensor: Tensor) -> str:
    return f"{tensor.dtype}[{','.join('any' if size is None else str(size) for size in tensor.shape)}]"
