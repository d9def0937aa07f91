"""What tests of the pipeline command share: a simulated server, the command run in this process, small real models."""

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fleet.entrypoints.cli.__main__ import run
from tests.fakes.release_server import TOKEN, ReleaseServerSimulator


@dataclass(frozen=True)
class Ran:
    """How a command line ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class CommandLine:
    """`modelfleet` with an environment of its own."""

    environment: dict[str, str] = field(default_factory=dict)

    def __call__(self, *words: str | Path) -> Ran:
        out, err = io.StringIO(), io.StringIO()
        code = run([str(word) for word in words], self.environment, out, err)
        return Ran(code, out.getvalue(), err.getvalue())

    def ok(self, *words: str | Path) -> Any:
        """The JSON result of a command that must succeed."""
        ran = self("--json", *words)
        assert ran.code == 0, ran.err
        return ran.json


@pytest.fixture
def server() -> Iterator[ReleaseServerSimulator]:
    with ReleaseServerSimulator().serving() as simulator:
        yield simulator


@pytest.fixture
def modelfleet(server: ReleaseServerSimulator, tmp_path: Path) -> CommandLine:
    return CommandLine({"HOME": str(tmp_path / "home"), "MODELFLEET_URL": server.url, "MODELFLEET_TOKEN": TOKEN})


@pytest.fixture
def keys(modelfleet: CommandLine, tmp_path: Path) -> Path:
    """An imported key set without a passphrase."""
    directory = tmp_path / "keys"
    modelfleet.ok("keys", "init", directory, "--no-passphrase")
    return directory


@pytest.fixture
def model(modelfleet: CommandLine, keys: Path) -> str:
    """A model of that key set."""
    modelfleet.ok("models", "create", "vision.digits", "--keys", keys)
    return "vision.digits"


def onnx_bytes(seed: int = 1, hidden: int = 16) -> bytes:
    """A small float model `image [N, 64] -> scores [N, 10]`, different for each seed."""
    dice = np.random.default_rng(seed)
    weights = {
        "first": dice.normal(size=(64, hidden)).astype(np.float32),
        "second": dice.normal(size=(hidden, 10)).astype(np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["image", "first"], ["hidden"]),
            helper.make_node("Relu", ["hidden"], ["active"]),
            helper.make_node("MatMul", ["active", "second"], ["scores"]),
        ],
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [None, 64])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, 10])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@pytest.fixture
def onnx_file(tmp_path: Path) -> Callable[..., Path]:
    """Write a model file with another content for each seed."""

    def write(seed: int = 1, hidden: int = 16, name: str = "model.onnx") -> Path:
        path = tmp_path / f"model-{seed}" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(onnx_bytes(seed, hidden))
        return path

    return write


@pytest.fixture
def release_dir(tmp_path: Path) -> Path:
    """A directory with a description, one variant, its labels and golden samples."""
    directory = tmp_path / "release"
    variant = directory / "onnx-fp32-any"
    variant.mkdir(parents=True)
    (variant / "model.onnx").write_bytes(onnx_bytes())
    (variant / "labels.txt").write_text("".join(f"{digit}\n" for digit in range(10)))
    (variant / "golden.json").write_text('{"v": 1, "samples": []}')
    description = {
        "variants": [
            {"dir": "onnx-fp32-any", "runtime": "onnx", "precision": "fp32", "hardware": "any", "weights": "model.onnx"}
        ],
        "contract": {"inputs": {"image": ["float32", [1, 64]]}, "outputs": {"scores": ["float32", [1, 10]]}},
        "labels": "labels.txt",
    }
    (directory / "modelfleet.json").write_text(json.dumps(description))
    return directory
