"""Writes a trained network as an ONNX file, in single precision or with weights stored as int8.

Both graphs take raw pixels `image` (float32, 1 x 64, 0..16), scale them inside, and answer `scores` (float32, 1 x 10,
a softmax), so that a caller needs no pre-processing and the contract of both variants is one. Initializers are written
in the order of the layers and nothing in the file tells versions apart but the weights: layers that did not change
keep their bytes and their place, which is what makes deltas small.

The int8 graph quantises activations on the fly (DynamicQuantizeLinear, MatMulInteger), so it needs no calibration
data. Weights are symmetric per output column and stay within 7 bits: x86 processors without VNNI add pairs of 8-bit
products in 16 bits, which full-range int8 weights overflow (ONNX Runtime's `reduce_range` exists for the same reason).

With `views`, the same network answers for that many exposures of the image, from darker to brighter, and averages: test-
time augmentation, which costs that many times the work. The contract stays the same.
"""

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

from fleet.demo.digits import LABELS, PIXEL_MAX, PIXELS
from fleet.demo.trainer import Network

OPSET = 17
IR_VERSION = 8
QUANTISED_MAX = 63
DARKEST, BRIGHTEST = 0.9, 1.1
METADATA = {
    "architecture": "64-1024-1024-64-10 perceptron",
    "training_data": "UCI Optical Recognition of Handwritten Digits, doi:10.24432/C50P49, CC BY 4.0",
}


def float_model(network: Network, views: int = 1) -> bytes:
    """The single-precision file: one Gemm per layer."""
    graph = _Graph(views)
    value = graph.scaled_image()
    for layer, (weights, biases) in enumerate(zip(network.weights, network.biases, strict=True)):
        name = f"layer{layer}"
        constants = [graph.constant(f"{name}.weight", weights), graph.constant(f"{name}.bias", biases)]
        value = graph.node("Gemm", [value, *constants], f"{name}.sum")
        if layer < len(network.weights) - 1:
            value = graph.node("Relu", [value], f"{name}.out")
    return graph.finished(value)


def int8_model(network: Network, views: int = 1) -> bytes:
    """The quantised file: 8-bit products summed in 32 bits, then scaled back to single precision."""
    graph = _Graph(views)
    value = graph.scaled_image()
    for layer, (weights, biases) in enumerate(zip(network.weights, network.biases, strict=True)):
        name = f"layer{layer}"
        quantised, scales = quantise_columns(weights)
        weight = graph.constant(f"{name}.weight", quantised)
        weight_zero = graph.constant(f"{name}.weight_zero", np.zeros(len(scales), dtype=np.int8))
        weight_scale = graph.constant(f"{name}.weight_scale", scales)
        bias = graph.constant(f"{name}.bias", biases)
        activation, scale, zero = graph.nodes(
            "DynamicQuantizeLinear", [value], [f"{name}.in", f"{name}.in_scale", f"{name}.in_zero"]
        )
        product = graph.node("MatMulInteger", [activation, weight, zero, weight_zero], f"{name}.product")
        product = graph.node("Cast", [product], f"{name}.product_float", to=TensorProto.FLOAT)
        both_scales = graph.node("Mul", [scale, weight_scale], f"{name}.scale")
        value = graph.node("Mul", [product, both_scales], f"{name}.unscaled")
        value = graph.node("Add", [value, bias], f"{name}.sum")
        if layer < len(network.weights) - 1:
            value = graph.node("Relu", [value], f"{name}.out")
    return graph.finished(value)


def quantise_columns(weights: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Integers of the weights' shape (inputs, outputs) within +-63, and one scale per output: weight = integer x scale."""
    largest = np.abs(weights).max(axis=0)
    scales = np.where(largest > 0, largest / np.float32(QUANTISED_MAX), np.float32(1)).astype(np.float32)
    return np.rint(weights / scales).astype(np.int8), scales


class _Graph:
    """Collects nodes and initializers in order; it holds no knowledge of the network."""

    def __init__(self, views: int) -> None:
        self._views = views
        self._nodes: list[NodeProto] = []
        self._constants: list[TensorProto] = []

    def constant(self, name: str, values: npt.NDArray[np.float32] | npt.NDArray[np.int8]) -> str:
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def nodes(self, operator: str, inputs: list[str], outputs: list[str], **attributes: int | list[int]) -> list[str]:
        node = helper.make_node(operator, inputs, outputs, name=outputs[0])
        node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
        self._nodes.append(node)
        return outputs

    def node(self, operator: str, inputs: list[str], output: str, **attributes: int | list[int]) -> str:
        return self.nodes(operator, inputs, [output], **attributes)[0]

    def scaled_image(self) -> str:
        scale = self.constant("pixel_scale", np.array(1 / PIXEL_MAX, dtype=np.float32))
        pixels = self.node("Mul", ["image", scale], "pixels")
        if self._views == 1:
            return pixels
        exposures = np.linspace(DARKEST, BRIGHTEST, self._views, dtype=np.float32).reshape(-1, 1)
        return self.node("Mul", [pixels, self.constant("exposures", exposures)], "views")

    def finished(self, logits: str) -> bytes:
        if self._views == 1:
            self.node("Softmax", [logits], "scores", axis=1)
        else:
            each = self.node("Softmax", [logits], "view_scores", axis=1)
            self.node("ReduceMean", [each], "scores", axes=[0], keepdims=1)
        graph = helper.make_graph(
            self._nodes,
            "digits",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, PIXELS])],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, len(LABELS)])],
            self._constants,
        )
        model: ModelProto = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="modelfleet-demo",
        )
        helper.set_model_props(model, METADATA)
        checker.check_model(model, full_check=True)
        content: bytes = model.SerializeToString(deterministic=True)
        return content
