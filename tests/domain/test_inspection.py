"""What inspection believes, and what it refuses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from device_client.wire.bundles import BundleFile, Contract, FileRole, Manifest, Tensor
from device_client.wire.golden import MAX_GOLDEN_BYTES, MAX_GOLDEN_NAMES, MAX_GOLDEN_VALUES
from device_client.wire.names import VariantName
from fleet.domain.errors import InvalidInputError
from fleet.domain.inspection import ByteSource, Inspection, inspect_companion, inspect_weights, require_agreement
from fleet.domain.inspection.files import ForbiddenFileError, MalformedFileError
from tests.domain import model_files
from tests.domain.model_files import source

FP32 = model_files.onnx_model()
INT8 = model_files.onnx_model(dtype=np.int8)
GENUINE = {
    "onnx": FP32,
    "onnx_int8": INT8,
    "safetensors": model_files.safetensors(),
    "gguf": model_files.gguf(),
    "tflite": model_files.tflite(),
    "openvino": model_files.openvino(),
}


def inspect(content: bytes) -> Inspection:
    return inspect_weights(source(content), "model.onnx")


def manifest(variant: str = "onnx-fp32-any", kind: str = "onnx", contract: Contract | None = None) -> Manifest:
    files = (BundleFile("model.onnx", FileRole.WEIGHTS, "a" * 64, 1),)
    return Manifest("vision.digits", "1", VariantName.parse(variant), kind, files, contract or Contract())


# ------------------------------------------------------------------------------------------ what genuine files say


def test_onnx__fp32__declares_inputs_outputs_opset_and_weights() -> None:
    found = inspect(FP32)
    assert (found.format, found.opset, found.ir_version, found.producer) == ("onnx", 17, 9, "test")
    assert found.inputs["image"].dtype == "float32"
    assert found.inputs["image"].shape == (None, 64)
    assert found.outputs["scores"].shape == (1, 10)
    assert found.elements == {"float32": 640}
    assert found.operators == {"Cast": 1, "MatMul": 1}
    assert not found.is_quantised


def test_onnx__int8_weights__quantised() -> None:
    found = inspect(INT8)
    assert found.dominant_dtype == "int8"
    assert found.is_quantised


def test_onnx__function_of_its_own__allowed() -> None:
    assert inspect(model_files.onnx_model(change=model_files.with_local_function)).operators["Act"] == 1


def test_safetensors__genuine__counts_elements() -> None:
    assert inspect(GENUINE["safetensors"]).elements == {"float32": 10}
    assert inspect(model_files.safetensors("BF16", 2)).dominant_dtype == "bfloat16"


def test_gguf__genuine__counts_elements_and_shows_metadata() -> None:
    found = inspect(GENUINE["gguf"])
    assert (found.format, found.elements) == ("gguf", {"float32": 32})
    assert found.metadata["general.architecture"] == "llama"


def test_tflite__genuine__declares_inputs_and_weights() -> None:
    found = inspect(GENUINE["tflite"])
    assert (found.format, found.elements) == ("tflite", {"int8": 640})
    assert found.inputs["image"].shape == (1, 64)
    assert found.outputs["out"].dtype == "float32"


def test_openvino__genuine__counts_constants() -> None:
    found = inspect(GENUINE["openvino"])
    assert (found.format, found.ir_version, found.elements) == ("openvino", 11, {"int8": 640})


# ------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("name", sorted(model_files.disguises()))
def test_weights__disguise__refused(name: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        inspect(model_files.disguises()[name])
    assert refused.value.code in {"file_forbidden", "format_unknown", "file_malformed"}


@pytest.mark.parametrize(
    "name", [name for name in sorted(model_files.disguises()) if name.startswith(("pickle", "torch"))]
)
@pytest.mark.parametrize("role", list(FileRole))
def test_companion__pickle_in_any_disguise__refused(name: str, role: FileRole) -> None:
    with pytest.raises(ForbiddenFileError):
        inspect_companion(source(model_files.disguises()[name]), role, "labels.txt")


@pytest.mark.parametrize(
    "change",
    [model_files.with_external_data, model_files.with_external_data_in_subgraph, model_files.with_custom_operator],
)
def test_onnx__reaches_outside_itself__refused(change: object) -> None:
    with pytest.raises(ForbiddenFileError):
        inspect(model_files.onnx_model(change=change))  # type: ignore[arg-type]


def test_onnx__tensor_shorter_than_its_shape__refused() -> None:
    with pytest.raises(InvalidInputError, match="expected 2560 bytes of data, got 2556"):
        inspect(model_files.onnx_model(change=model_files.with_short_weights))


@pytest.mark.parametrize("name", sorted(GENUINE))
def test_weights__truncated_anywhere__refused(name: str) -> None:
    content = GENUINE[name]
    believed = []
    for size in range(len(content)):
        try:
            inspect(content[:size])
        except InvalidInputError:
            continue
        believed.append(size)
    # A file that ends in padding or in an optional field is whole without it.
    assert all(len(content) - size <= 8 for size in believed), believed


def test_tflite__custom_operator__refused() -> None:
    with pytest.raises(ForbiddenFileError, match="custom"):
        inspect(model_files.tflite(custom="Exec"))


def test_openvino__document_type__refused_before_entities_expand() -> None:
    bomb = b'<?xml version="1.0"?><!DOCTYPE net [<!ENTITY a "aaaa">]><net version="11"><layers/></net>'
    with pytest.raises(ForbiddenFileError):
        inspect(bomb)


def test_safetensors__metadata_that_no_database_takes__kept_without_it() -> None:
    header: dict[str, object] = {"__metadata__": {"a\x00": "b\x00c", "half": "\ud800"}}
    header["w"] = {"dtype": "F32", "shape": [10], "data_offsets": [0, 40]}
    found = inspect(model_files.safetensors(header=header)).encode()
    assert found["metadata"] == {"a": "bc", "half": "?"}


@pytest.mark.parametrize(
    "header",
    [
        {"w": {"dtype": "F32", "shape": [10], "data_offsets": [0, 36]}},
        {"w": {"dtype": "F32", "shape": [10], "data_offsets": [4, 44]}},
        {"w": {"dtype": "F32", "shape": [2**60, 2**60], "data_offsets": [0, 40]}},
        {"w": {"dtype": "PY", "shape": [10], "data_offsets": [0, 40]}},
        {"w": {"dtype": "F32", "shape": [-10], "data_offsets": [0, 40]}},
        {"w": "x"},
    ],
)
def test_safetensors__header_that_lies__refused(header: dict[str, object]) -> None:
    with pytest.raises(MalformedFileError):
        inspect(model_files.safetensors(header=header))


def test_weights__header_beyond_four_gibibytes__read_at_its_place() -> None:
    """Offsets are not cut to 32 bits: a file's end is looked at where it is."""
    length = (1 << 32) + 1_000
    reads: list[tuple[int, int]] = []

    def fetch(offset: int, size: int) -> bytes:
        reads.append((offset, size))
        return bytes(size)

    with pytest.raises(InvalidInputError):
        inspect_weights(ByteSource(length, fetch), "model.onnx")
    assert max(offset + size for offset, size in reads) == length
    assert sum(size for _, size in reads) < 2_000_000


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(GENUINE)), st.data())
def test_weights__bytes_altered_at_random__never_anything_but_a_refusal(name: str, data: st.DataObject) -> None:
    content = bytearray(GENUINE[name])
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = inspect(bytes(content))
    except InvalidInputError:
        return
    assert found.format in {"onnx", "safetensors", "gguf", "tflite", "openvino"}


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_weights__noise__never_anything_but_a_refusal(content: bytes) -> None:
    with pytest.raises(InvalidInputError):
        inspect(content)


# ------------------------------------------------------------------------------------------ companions


@pytest.mark.parametrize(
    ("role", "content"),
    [
        (FileRole.LABELS, b"cat\ndog\nzero\n"),
        (FileRole.LABELS, "größe\n猫\n".encode()),
        (FileRole.GOLDEN, b'{"inputs": {}, "outputs": {}}'),
        (FileRole.OTHER, b"\x00\x01\x02\x03 raw bytes"),
        (FileRole.PARAMETERS, b'{"mean": 0.5}'),
    ],
)
def test_companion__plain_data__accepted(role: FileRole, content: bytes) -> None:
    inspect_companion(source(content), role, "file")


@pytest.mark.parametrize(
    ("role", "content"),
    [
        (FileRole.LABELS, b"\xff\xfe\x00"),
        (FileRole.LABELS, b"cat\x00dog"),
        (FileRole.GOLDEN, b"not json"),
        (FileRole.GOLDEN, b"[1, 2]"),
        (FileRole.GOLDEN, b"[" * 100_000),
        (FileRole.GOLDEN, b'{"inputs": {"x": [NaN]}}'),
        (FileRole.GOLDEN, b'{"inputs": {"x": [' + b"[]," * (MAX_GOLDEN_VALUES // 2 + 1) + b"0]}}"),
        (FileRole.GOLDEN, b'{"inputs": {"x": [' + b'{"":0},' * MAX_GOLDEN_NAMES + b"0]}}"),
    ],
)
def test_companion__not_what_its_role_says__refused(role: FileRole, content: bytes) -> None:
    with pytest.raises(InvalidInputError):
        inspect_companion(source(content), role, "file")


def test_companion__golden_samples_longer_than_devices_take__refused_before_they_are_read() -> None:
    unread: list[tuple[int, int]] = []

    def fetch(offset: int, size: int) -> bytes:
        unread.append((offset, size))
        return b" " * size

    with pytest.raises(InvalidInputError, match=f"golden.json: expected at most {MAX_GOLDEN_BYTES} bytes"):
        inspect_companion(ByteSource(MAX_GOLDEN_BYTES + 1, fetch), FileRole.GOLDEN, "golden.json")
    assert max(size for _, size in unread) <= 1 << 20, "only the signs of code in disguise were looked for"


# ------------------------------------------------------------------------------------------ agreement with the manifest


@pytest.mark.parametrize(
    ("variant", "kind", "content", "code"),
    [
        ("onnx-fp32-any", "tflite", FP32, "format_contradicted"),
        ("tflite-fp32-any", "onnx", FP32, "runtime_contradicted"),
        ("onnx-int8-any", "onnx", FP32, "precision_contradicted"),
        ("onnx-fp32-any", "onnx", INT8, "precision_contradicted"),
        ("onnx-fp16-any", "onnx", FP32, "precision_contradicted"),
    ],
)
def test_manifest__contradicts_the_file__refused(variant: str, kind: str, content: bytes, code: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        require_agreement(inspect(content), manifest(variant, kind))
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("variant", "kind", "content"),
    [
        ("onnx-fp32-any", "onnx", FP32),
        ("onnx-int8-any", "onnx", INT8),
        ("openvino-fp32-any", "onnx", FP32),
        ("litert-int8-coral", "tflite", GENUINE["tflite"]),
        ("own-mixed-any", "onnx", INT8),
    ],
)
def test_manifest__says_what_the_file_says__accepted(variant: str, kind: str, content: bytes) -> None:
    require_agreement(inspect(content), manifest(variant, kind))


IMAGE = {"image": Tensor("float32", (1, 64))}
SCORES = {"scores": Tensor("float32", (1, 10))}


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ({"picture": Tensor("float32", (1, 64))}, SCORES),
        ({"image": Tensor("uint8", (1, 64))}, SCORES),
        ({"image": Tensor("float32", (1, 65))}, SCORES),
        ({"image": Tensor("float32", (64,))}, SCORES),
        ({**IMAGE, "mask": Tensor("float32", (1,))}, SCORES),
        (IMAGE, {"classes": Tensor("float32", (1, 10))}),
        (IMAGE, {"scores": Tensor("float32", (1, 11))}),
    ],
)
def test_contract__contradicts_the_file__refused(inputs: dict[str, Tensor], outputs: dict[str, Tensor]) -> None:
    with pytest.raises(InvalidInputError) as refused:
        require_agreement(inspect(FP32), manifest(contract=Contract(inputs, outputs)))
    assert refused.value.code == "contract_contradicted"


def test_contract__agrees_or_is_silent__accepted() -> None:
    require_agreement(inspect(FP32), manifest(contract=Contract(IMAGE, SCORES)))
    require_agreement(inspect(FP32), manifest())


def test_contract__leaves_out_an_input_that_must_be_fed__refused() -> None:
    two = model_files.onnx_model(inputs={"image": (TensorProto.FLOAT, [1, 64]), "mask": (TensorProto.FLOAT, [1])})
    with pytest.raises(InvalidInputError):
        require_agreement(inspect(two), manifest(contract=Contract(IMAGE, SCORES)))
