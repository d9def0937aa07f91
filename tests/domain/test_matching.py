import itertools
from dataclasses import replace

import pytest

from device_client.wire.bundles import Contract, Requirements, Tensor
from device_client.wire.messages import Capabilities
from fleet.domain.facts import Build
from fleet.domain.matching import match
from tests.domain.releases import CAPABLE, build

FP32, INT8 = build(variant="onnx-fp32-any"), build(variant="onnx-int8-any")
CORAL = build(variant="tflite-int8-coral")


def test_match__several_fit__takes_the_most_exact() -> None:
    assert match([INT8, FP32], "edge-std", CAPABLE).build == FP32


def test_match__device_lists_precisions__takes_its_first() -> None:
    assert match([FP32, INT8], "edge-std", replace(CAPABLE, precisions=("int8", "fp32"))).build == INT8


def test_match__device_takes_int8_only__gets_int8() -> None:
    assert match([FP32, INT8], "edge-std", replace(CAPABLE, precisions=("int8",))).build == INT8


def test_match__accelerator_present__beats_any_hardware() -> None:
    capable = replace(CAPABLE, runtimes={"onnx": "1", "tflite": "2"}, accelerators=("coral",))
    needs_nothing = build(variant="tflite-int8-coral", requirements=Requirements())
    assert match([FP32, INT8, needs_nothing], "edge-std", capable).build == needs_nothing


@pytest.mark.parametrize("order", list(itertools.permutations([FP32, INT8, CORAL])))
def test_match__any_order_of_variants__same_choice(order: tuple[Build, ...]) -> None:
    assert match(order, "edge-std", CAPABLE).build == FP32


@pytest.mark.parametrize(
    ("capabilities", "why"),
    [
        (replace(CAPABLE, runtimes={}), "needs the runtime onnx, the device has none"),
        (replace(CAPABLE, precisions=("int8",)), "is fp32, the device takes int8"),
        (replace(CAPABLE, max_opset=15), "needs opset 17, the device's runtime reads up to 15"),
        (replace(CAPABLE, max_opset=0), "needs opset 17, the device's runtime reads up to an unknown one"),
        (replace(CAPABLE, max_ir_version=7), "needs IR version 8, the device's runtime reads up to 7"),
        (replace(CAPABLE, disk_bytes=999), "needs 1000 bytes of disk, the device has 999"),
    ],
)
def test_match__device_lacks_something__says_what(capabilities: Capabilities, why: str) -> None:
    found = match([FP32], "edge-std", capabilities)
    assert found.build is None
    assert found.why_not == f"onnx-fp32-any: {why}"


def test_match__hardware_is_missing__says_so() -> None:
    found = match([CORAL], "edge-std", replace(CAPABLE, runtimes={"tflite": "2"}))
    assert "is made for coral, the device is edge-std with no accelerator" in found.why_not


def test_match__memory_is_unknown__leaves_it_to_the_device() -> None:
    heavy = build(requirements=Requirements(ram_bytes=2**40))
    assert match([heavy], "edge-std", CAPABLE).build is None
    assert match([heavy], "edge-std", replace(CAPABLE, ram_bytes=0)).build == heavy


IMAGE = Tensor("float32", (1, 64))


@pytest.mark.parametrize(
    ("offered", "wanted", "why"),
    [
        (Contract(inputs={"image": IMAGE}), Contract(inputs={"image": IMAGE}), ""),
        (Contract(inputs={"image": Tensor("float32", (None, 64))}), Contract(inputs={"image": IMAGE}), ""),
        (Contract(inputs={"x": IMAGE}), Contract(inputs={"image": IMAGE}), "has no input 'image'"),
        (Contract(inputs={"image": IMAGE, "mask": IMAGE}), Contract(inputs={"image": IMAGE}), "an input 'mask'"),
        (
            Contract(inputs={"image": Tensor("uint8", (1, 64))}),
            Contract(inputs={"image": IMAGE}),
            "has input 'image' as uint8[1,64], the application expects float32[1,64]",
        ),
        (Contract(outputs={"s": Tensor("float32", (1, 9))}), Contract(outputs={"s": Tensor("float32", (1, 10))}), "s"),
        (Contract(outputs={"s": Tensor("float32", (1,))}), Contract(outputs={"s": Tensor("float32", (1, 10))}), "s"),
        (Contract(labels_sha256="a" * 64), Contract(labels_sha256="b" * 64), "other labels"),
        (Contract(labels_sha256="a" * 64), Contract(), ""),
    ],
)
def test_match__application_has_a_contract__is_kept_or_refused(offered: Contract, wanted: Contract, why: str) -> None:
    found = match([build(contract=offered)], "edge-std", CAPABLE, wanted)
    assert (found.build is not None) == (why == "")
    assert why in found.why_not


def test_match__made_for_the_devices_class__preferred_to_made_for_any() -> None:
    own = build(variant="onnx-fp16-jetson_orin")
    assert match([FP32, own], "jetson-orin", CAPABLE).build == own
    assert match([FP32, own], "edge-std", CAPABLE).build == FP32
