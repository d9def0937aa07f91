"""Which format a file of weights really has, what it declares, and whether its label says the same."""

from collections.abc import Callable, Mapping
from typing import Final

from device_client.wire.bundles import Manifest, Tensor
from fleet.domain.errors import InvalidInputError
from fleet.domain.formats import PRECISION_DTYPES, RUNTIME_FORMATS, Format
from fleet.domain.inspection import gguf, onnx, openvino, safetensors, tflite
from fleet.domain.inspection.files import ByteSource, Inspection, MalformedFileError, TensorInfo
from fleet.domain.inspection.plain import refuse_disguises

# Recognised by magic where the format has one; ONNX has none, so it is tried last and must hold up as a whole.
_READERS: Final[tuple[tuple[Callable[[ByteSource], bool], Callable[[ByteSource], Inspection]], ...]] = (
    (gguf.is_gguf, gguf.inspect),
    (tflite.is_tflite, tflite.inspect),
    (safetensors.is_safetensors, safetensors.inspect),
    (openvino.is_openvino, openvino.inspect),
)
_UNSHAPED: Final = "unknown"


def inspect_weights(source: ByteSource, name: str) -> Inspection:
    """What the file is and says. Raises InvalidInputError for disguises, unknown formats and damaged files."""
    refuse_disguises(source, name)
    for recognises, reader in _READERS:
        if recognises(source):
            return reader(source)
    try:
        return onnx.inspect(source)
    except MalformedFileError as error:
        formats = ", ".join(item.value for item in Format)
        raise InvalidInputError(
            "format_unknown", f"{name}: expected one of {formats}, got a file that is none of them ({error.message})"
        ) from error


def require_agreement(found: Inspection, manifest: Manifest) -> None:
    """Raise InvalidInputError where the file contradicts what its manifest says of it."""
    if manifest.format != found.format:
        raise InvalidInputError(
            "format_contradicted", f"{manifest.weights.name}: expected {manifest.format}, got {found.format}"
        )
    allowed = RUNTIME_FORMATS.get(manifest.variant.runtime)
    if allowed is not None and found.format not in {item.value for item in allowed}:
        raise InvalidInputError(
            "runtime_contradicted",
            f"runtime {manifest.variant.runtime}: expected {sorted(item.value for item in allowed)}, got {found.format}",
        )
    dtypes = PRECISION_DTYPES.get(manifest.variant.precision)
    if dtypes is not None and found.elements and found.dominant_dtype not in dtypes:
        raise InvalidInputError(
            "precision_contradicted",
            f"precision {manifest.variant.precision}: expected most weights as {' or '.join(sorted(dtypes))}, "
            f"got {found.dominant_dtype}",
        )
    if found.inputs or found.outputs:
        _require_tensors("input", manifest.contract.inputs, found.inputs, complete=True)
        _require_tensors("output", manifest.contract.outputs, found.outputs, complete=False)


def _require_tensors(what: str, said: Mapping[str, Tensor], found: Mapping[str, TensorInfo], *, complete: bool) -> None:
    """`complete`: everything in the file must be in the contract too, since a caller has to feed every input."""
    if not said:
        return
    unknown = sorted(set(said) - set(found))
    missing = sorted(set(found) - set(said)) if complete else []
    if unknown or missing:
        raise InvalidInputError(
            "contract_contradicted", f"{what}s: expected {sorted(said)} as the contract says, got {sorted(found)}"
        )
    for name, tensor in said.items():
        actual = found[name]
        if actual.dtype not in {tensor.dtype, _UNSHAPED}:
            raise InvalidInputError(
                "contract_contradicted", f"{what} {name}: expected dtype {tensor.dtype}, got {actual.dtype}"
            )
        if not _shapes_agree(tensor.shape, actual.shape):
            raise InvalidInputError(
                "contract_contradicted",
                f"{what} {name}: expected shape {list(tensor.shape)}, got {list(actual.shape)}",
            )


def _shapes_agree(said: tuple[int | None, ...], found: tuple[int | None, ...]) -> bool:
    return len(said) == len(found) and all(a is None or b is None or a == b for a, b in zip(said, found, strict=True))
