"""The versions that the rollouts of `test_rollouts` move: small classifiers of real digits, each with one thing wrong.

What is wrong shows in the field only: every version loads, passes its own golden samples and is signed and published like
any other. All of them keep one contract. Nothing here knows of devices or rollouts.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from fleet.demo import digits, golden, onnx_export, trainer
from fleet.demo.digits import LABELS, PIXELS, Samples
from fleet.demo.trainer import Course, Network

FEW: Final = 60
ROUNDS: Final = Course(first_layer=0, epochs=15, batch=50, rate=0.1)
WIDTH: Final = 512
EXPOSURES: Final = 1024
SEED: Final = 7
VARIANT: Final = "onnx-fp32-any"


@dataclass(frozen=True)
class FieldModels:
    """Where the versions lie, each a directory for `modelfleet push`."""

    usable: Path  # of few samples
    good: Path  # of all samples
    confused: Path  # of swapped labels: fast, confident and wrong
    slow: Path  # answers like `good`, for hundreds of times the work
    large: Path  # answers like `good`, in a file of a megabyte
    crashing: Path  # answers like `good`, and takes its process down at images brighter than its golden samples


def build(directory: Path) -> FieldModels:
    """Train them and write them out."""
    parts = digits.split(digits.load())
    train = parts.train
    good = _trained(train)
    wide = _widened(good, WIDTH)
    samples = golden.one_per_digit(train)
    brightest = int(samples.images.sum(axis=1, dtype=np.int64).max())
    files = {
        "usable": onnx_export.float_model(_trained(train.take(np.arange(FEW)))),
        "good": onnx_export.float_model(good),
        "confused": onnx_export.float_model(_trained(Samples(train.images, _confused(train.labels)))),
        "slow": onnx_export.float_model(wide, EXPOSURES),
        "large": onnx_export.float_model(wide),
        "crashing": _with_trap(onnx_export.float_model(good), brightest),
    }
    return FieldModels(**{name: _written(directory / name, model, samples) for name, model in files.items()})


def _trained(samples: Samples) -> Network:
    """One layer: the digits are almost linearly separable."""
    blank = Network((np.zeros((PIXELS, len(LABELS)), np.float32),), (np.zeros(len(LABELS), np.float32),))
    dice = np.random.Generator(np.random.PCG64(SEED))
    return trainer.fit(blank, trainer.scaled(samples.images), samples.labels.astype(np.intp), ROUNDS, dice)


def _confused(labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """As from an annotation tool that is one off for most digits."""
    names = np.array([0, 1, 3, 4, 5, 6, 7, 8, 9, 2], dtype=np.uint8)
    return names[labels]


def _widened(network: Network, width: int) -> Network:
    """The same answers through two layers of `width` units: x = relu(x) - relu(-x)."""
    (weights,), (biases,) = network.weights, network.biases
    spread = np.zeros((PIXELS, width), np.float32)
    gathered = np.zeros((width, len(LABELS)), np.float32)
    for pixel in range(PIXELS):
        spread[pixel, 2 * pixel], spread[pixel, 2 * pixel + 1] = 1, -1
        gathered[2 * pixel], gathered[2 * pixel + 1] = weights[pixel], -weights[pixel]
    # Noise in the units that nothing reads: a file that is worth a patch is not the point here.
    dice = np.random.Generator(np.random.PCG64(SEED))
    between = np.eye(width, dtype=np.float32)
    between[2 * PIXELS :, 2 * PIXELS :] = dice.standard_normal((width - 2 * PIXELS,) * 2, dtype=np.float32)
    none = np.zeros(width, np.float32)
    return Network((spread, between, gathered), (none, none, biases))


def _with_trap(content: bytes, brightest: int) -> bytes:
    """The graph with a division of the least integer by -1 for brighter images, which the processor (x86) traps.

    ONNX Runtime looks for divisions by zero and not for this one, so the process ends by SIGFPE.
    """
    model = onnx.load_from_string(content)
    graph = model.graph
    (last,) = [node for node in graph.node if "scores" in node.output]
    last.output[:] = ["plain_scores"]
    for name, values in (
        ("brightest", np.array(brightest, np.float32)),
        ("least", np.array(np.iinfo(np.int32).min, np.int32)),
        ("one", np.array(1, np.int32)),
        ("minus_one", np.array(-1, np.int32)),
        ("nothing", np.array(0, np.float32)),
    ):
        graph.initializer.append(numpy_helper.from_array(values, name))
    graph.node.extend(
        [
            helper.make_node("ReduceSum", ["image"], ["brightness"], keepdims=0),
            helper.make_node("Greater", ["brightness", "brightest"], ["is_bright"]),
            helper.make_node("Where", ["is_bright", "minus_one", "one"], ["divisor"]),
            helper.make_node("Div", ["least", "divisor"], ["quotient"]),
            helper.make_node("Cast", ["quotient"], ["quotient_float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["quotient_float", "nothing"], ["trace"]),
            helper.make_node("Add", ["plain_scores", "trace"], ["scores"]),
        ]
    )
    onnx.checker.check_model(model, full_check=True)
    trapped: bytes = model.SerializeToString(deterministic=True)
    return trapped


def _written(directory: Path, model: bytes, samples: Samples) -> Path:
    """The directory of one version."""
    variant = directory / VARIANT
    variant.mkdir(parents=True)
    (variant / "model.onnx").write_bytes(model)
    (variant / "golden.json").write_bytes(golden.golden_file(model, samples, golden.FLOAT_TOLERANCE))
    (variant / "labels.txt").write_text("".join(f"{label}\n" for label in LABELS))
    runtime, precision, hardware = VARIANT.split("-")
    document = {
        "variants": [
            {"dir": VARIANT, "runtime": runtime, "precision": precision, "hardware": hardware, "weights": "model.onnx"}
        ],
        "contract": {
            "inputs": {"image": ["float32", [1, PIXELS]]},
            "outputs": {"scores": ["float32", [1, len(LABELS)]]},
        },
        "labels": "labels.txt",
    }
    (directory / "modelfleet.json").write_text(json.dumps(document))
    return directory
