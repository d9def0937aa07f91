"""ONNX Runtime behind the device's runtime port, with a real file. The next runtimes pass the same test."""

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from device_client import runtimes
from device_client.core.errors import LoadError
from device_client.runtimes.onnx import OnnxRuntime
from device_client.wire.bundles import BundleFile, Contract, FileRole, Manifest, Tensor
from device_client.wire.names import VariantName
from tests.fakes.update_server import sha256


def model(bias: float = 1.0, opset: int = 17, operator: str = "Add") -> bytes:
    """`y = x + bias` over a batch of any size."""
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "bias"], ["y"])],
        "plus",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.full(3, bias, dtype=np.float32), "bias")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(made, {"trained": "by hand"})
    return made.SerializeToString()  # type: ignore[no-any-return]


def manifest(weights: bytes, inputs: Mapping[str, Tensor] | None = None) -> Manifest:
    file = BundleFile("model.onnx", FileRole.WEIGHTS, sha256(weights), len(weights))
    return Manifest(
        "vision.digits", "1", VariantName("onnx", "fp32", "any"), "onnx", (file,), Contract(dict(inputs or {}))
    )


@pytest.fixture
def runtime() -> OnnxRuntime:
    return OnnxRuntime()


def test_installed__this_environment__has_onnx() -> None:
    assert runtimes.installed()["onnx"].name == "onnx"


def test_probe__installed_version__says_what_it_can(runtime: OnnxRuntime) -> None:
    probe = runtime.probe()
    assert probe.version
    assert probe.max_opset >= 19
    assert probe.max_ir_version >= 8


def test_load__good_file__infers_by_name(runtime: OnnxRuntime) -> None:
    weights = model()
    loaded = runtime.load(weights, manifest(weights, {"x": Tensor("float32", (None, 3))}))
    answer = loaded.infer({"x": np.array([[1, 2, 3]], dtype=np.float32)})
    assert answer["y"].tolist() == [[2.0, 3.0, 4.0]]
    assert loaded.infer({"x": [[1, 2, 3]]})["y"].tolist() == [[2.0, 3.0, 4.0]], "golden samples come as lists"
    assert loaded.metadata() == {"trained": "by hand"}


def test_close__then_inferred__raises_our_error(runtime: OnnxRuntime) -> None:
    weights = model()
    loaded = runtime.load(weights, manifest(weights))
    loaded.close()
    with pytest.raises(LoadError):
        loaded.infer({"x": np.zeros((1, 3), dtype=np.float32)})


@pytest.mark.parametrize(
    "weights",
    [b"", b"not a model", model()[:40], model(opset=999), model(operator="NoSuchOperator")],
    ids=["empty", "garbage", "cut", "opset", "operator"],
)
def test_load__not_a_model_for_here__load_error(runtime: OnnxRuntime, weights: bytes) -> None:
    with pytest.raises(LoadError):
        runtime.load(weights, manifest(weights))


def test_load__contract_names_an_input_that_is_not_there__load_error(runtime: OnnxRuntime) -> None:
    weights = model()
    with pytest.raises(LoadError, match="image"):
        runtime.load(weights, manifest(weights, {"image": Tensor("float32", (1, 3))}))


def test_load__external_data__never_read_from_disk(runtime: OnnxRuntime) -> None:
    """A file from memory has no directory: weights outside it cannot be pulled in past the signature."""
    made = onnx.load_from_string(model())
    bias = made.graph.initializer[0]
    bias.ClearField("raw_data")
    bias.data_location = TensorProto.EXTERNAL
    entry = bias.external_data.add()
    entry.key, entry.value = "location", "/etc/hostname"
    weights = made.SerializeToString()
    with pytest.raises(LoadError):
        runtime.load(weights, manifest(weights))
