"""Our own checks of a director's answer, beside those that TUF makes: binding, agreement, suitability.

Pure and short on purpose: signatures, thresholds, versions and expiry are python-tuf's. Whatever is not allowed here
raises; there is no other way to get a `Target`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from device_client.core.deployment import Patch, Target
from device_client.core.errors import BindingError, IncompatibleError, NotAuthorisedError
from device_client.core.profile import Profile
from device_client.wire.bundles import Contract, Manifest, Tensor
from device_client.wire.director import Assigned, Binding, DeltaOffer
from device_client.wire.errors import WireError
from device_client.wire.names import ANY_HARDWARE, ManifestPath, delta_target, device_target, hardware_part
from device_client.wire.shadow import ShadowBudget

MODELS_PREFIX = "models/"
DELTAS_PREFIX = "deltas/"


@dataclass(frozen=True)
class SignedTarget:
    """One entry of a verified targets role: exactly one sha256, the length, and the custom object."""

    path: str
    sha256: str
    length: int
    custom: object


@dataclass(frozen=True)
class Shadowing:
    """A target that is to run beside what is served, and what it may take."""

    target: Target
    budget: ShadowBudget


@dataclass(frozen=True)
class DirectorAnswer:
    """A verified bundle that is bound to this device: what it says, model by model."""

    binding: Binding
    targets: Mapping[str, Target]
    director_version: int
    shadows: Mapping[str, Shadowing] = field(default_factory=dict)


def read_answer(
    targets: Sequence[SignedTarget],
    *,
    device_id: str,
    nonce: str,
    tickets: Mapping[str, str],
    director_version: int,
    has_delegations: bool,
) -> DirectorAnswer:
    """Check the binding and read the assignment; raises `BindingError`.

    A bundle without this device's own target, with another nonce, or with delegations is not for us, however well
    signed: the caller must not keep any of its metadata.
    """
    if has_delegations:
        raise BindingError("expected director targets without delegations, got some")
    by_path = {target.path: target for target in targets}
    own = by_path.get(device_target(device_id))
    if own is None or own.length != 0:
        raise BindingError(f"expected a zero-length target {device_target(device_id)}, got {sorted(by_path)[:5]}")
    try:
        binding = Binding.parse(own.custom)
        if binding.nonce != nonce:
            raise BindingError(f"expected nonce {nonce}, got {binding.nonce}")
        patches = tuple(_patch(target) for target in targets if target.path.startswith(DELTAS_PREFIX))
        assigned: dict[str, Target] = {}
        shadows: dict[str, Shadowing] = {}
        for target in targets:
            if target.path.startswith(MODELS_PREFIX):
                model, value, budget = _assigned(target, patches, tickets)
                if model in (assigned if budget is None else shadows):
                    raise BindingError(f"expected one version of {model}, got two")
                if budget is None:
                    assigned[model] = value
                else:
                    shadows[model] = Shadowing(value, budget)
    except WireError as error:
        raise BindingError(f"director targets: {error}") from error
    return DirectorAnswer(binding, assigned, director_version, shadows)


def _patch(target: SignedTarget) -> Patch:
    offer = DeltaOffer.parse(target.custom)
    expected = delta_target(offer.old_sha256, offer.new_sha256, offer.codec)
    if target.path != expected:
        raise BindingError(f"expected the delta's path to be {expected}, got {target.path}")
    return Patch(offer.old_sha256, offer.new_sha256, offer.codec, target.sha256, target.length)


def _assigned(
    target: SignedTarget, patches: tuple[Patch, ...], tickets: Mapping[str, str]
) -> tuple[str, Target, ShadowBudget | None]:
    path, said = ManifestPath.parse(target.path), Assigned.parse(target.custom)
    if (said.model, said.version) != (path.model, path.version):
        raise BindingError(f"expected {path.model} {path.version} as in the path, got {said.model} {said.version}")
    found = Target(
        version=said.version,
        digest=target.sha256,
        path=target.path,
        length=target.length,
        rollout=said.rollout,
        revision=said.revision,
        arm=said.arm,
        phase=said.phase,
        reason=said.reason,
        policy=said.policy,
        parameters=said.parameters,
        patches=patches,
        tickets=tickets,
    )
    return said.model, found, said.shadow


def agree(target: Target, signed: SignedTarget | None) -> None:
    """The pipeline has signed exactly what the director names; raises `NotAuthorisedError`."""
    if signed is None:
        raise NotAuthorisedError(f"expected {target.path} in the image repository, got no such target")
    if (signed.sha256, signed.length) != (target.digest, target.length):
        raise NotAuthorisedError(
            f"expected {target.path} as signed by the pipeline ({signed.length} bytes, {signed.sha256[:16]}), "
            f"got {target.length} bytes, {target.digest[:16]} from the director"
        )


def suit(manifest: Manifest, path: str, profile: Profile) -> None:
    """The verified manifest fits its path and this device; raises `IncompatibleError`."""
    named = ManifestPath.parse(path)
    if (manifest.model, manifest.version, manifest.variant) != (named.model, named.version, named.variant):
        raise IncompatibleError(
            f"expected the manifest of {named}, got {manifest.model} {manifest.version} {manifest.variant.slug}"
        )
    can, needs, variant = profile.capabilities, manifest.requirements, manifest.variant
    accepted = {ANY_HARDWARE, hardware_part(profile.hardware_class), *can.accelerators}
    if variant.hardware not in accepted:
        raise IncompatibleError(f"expected hardware {sorted(accepted)}, got {variant.hardware}")
    if variant.runtime not in can.runtimes:
        raise IncompatibleError(f"expected a runtime of {sorted(can.runtimes)}, got {variant.runtime}")
    if profile.precisions and variant.precision not in profile.precisions:
        raise IncompatibleError(f"expected a precision of {list(profile.precisions)}, got {variant.precision}")
    for what, needed, had in (
        ("opset", needs.opset, can.max_opset),
        ("IR version", needs.ir_version, can.max_ir_version),
        ("bytes of memory", needs.ram_bytes, can.ram_bytes),
    ):
        if needed and had and needed > had:
            raise IncompatibleError(f"expected {what} of at most {had}, got {needed}")
    wanted = profile.contracts.get(manifest.model)
    if wanted is not None:
        fulfil(manifest.contract, wanted)


def fulfil(offered: Contract, wanted: Contract) -> None:
    """Every input and output that the application was written for is there in the same form; raises otherwise."""
    for what, needed, had in (
        ("input", wanted.inputs, offered.inputs),
        ("output", wanted.outputs, offered.outputs),
    ):
        for name, tensor in needed.items():
            other = had.get(name)
            if other is None or not _fits(tensor, other):
                raise IncompatibleError(f"expected {what} {name!r} as {tensor}, got {other}")
    extra = sorted(set(offered.inputs) - set(wanted.inputs))
    if wanted.inputs and extra:
        raise IncompatibleError(f"expected no inputs beside {sorted(wanted.inputs)}, got {extra}")
    if wanted.labels_sha256 is not None and wanted.labels_sha256 != offered.labels_sha256:
        raise IncompatibleError(f"expected labels {wanted.labels_sha256[:16]}, got {str(offered.labels_sha256)[:16]}")


def _fits(wanted: Tensor, offered: Tensor) -> bool:
    return (
        wanted.dtype == offered.dtype
        and len(wanted.shape) == len(offered.shape)
        and all(a is None or b is None or a == b for a, b in zip(wanted.shape, offered.shape, strict=True))
    )


def usable_patches(
    target: Target, new_sha256: str, *, held: Collection[str], codecs: Collection[str]
) -> tuple[Patch, ...]:
    """The offered patches that make `new_sha256` from a blob that this device holds, smallest first.

    `codecs` are those that this device has advertised: it takes none that it did not ask for.
    """
    fitting = (
        patch
        for patch in target.patches
        if patch.new_sha256 == new_sha256 and patch.old_sha256 in held and patch.codec in codecs
    )
    return tuple(sorted(fitting, key=lambda patch: (patch.length, patch.sha256)))
