"""The demo's models, trained once for this module: what the story needs of them, as the runtime sees it."""

import json
from dataclasses import dataclass
from pathlib import Path

import bsdiff4
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from fleet.demo import digits, golden, models, onnx_export, trainer
from fleet.demo.models import Build

MIB = 1024 * 1024
FLOAT, INT8 = "onnx-fp32-any", "onnx-int8-any"
SLUGS = (FLOAT, INT8)
VERSIONS = ("1", "2", "3", "4")
EVERY_VERSION = (*VERSIONS, models.SLOW)


@dataclass(frozen=True)
class Trained:
    out_dir: Path
    build: Build

    def accuracy(self, version: str, slug: str) -> float:
        return next(item.accuracy for item in self.build.variants if (item.version, item.variant) == (version, slug))

    def model(self, version: str, slug: str) -> bytes:
        return models.model_path(self.out_dir, version, slug).read_bytes()

    def tensors(self, version: str, slug: str) -> dict[str, bytes]:
        graph = onnx.load_from_string(self.model(version, slug)).graph
        return {tensor.name: tensor.raw_data for tensor in graph.initializer}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    out_dir = tmp_path_factory.mktemp("models")
    return Trained(out_dir, models.build(out_dir))


@pytest.mark.parametrize("slug", SLUGS)
def test_versions__on_the_pool__are_as_good_and_as_bad_as_the_story_needs(trained: Trained, slug: str) -> None:
    first, second, third, fourth = (trained.accuracy(version, slug) for version in VERSIONS)

    assert 0.75 <= first <= 0.90
    assert second >= 0.95
    assert second >= first + 0.06
    assert third <= 0.65
    assert fourth >= second - 0.01


@pytest.mark.parametrize("version", VERSIONS)
def test_variants__same_version__agree(trained: Trained, version: str) -> None:
    assert trained.accuracy(version, INT8) == pytest.approx(trained.accuracy(version, FLOAT), abs=0.02)


@pytest.mark.parametrize("slug", SLUGS)
def test_versions__continued__keep_the_first_layers_byte_for_byte(trained: Trained, slug: str) -> None:
    tensors = {version: trained.tensors(version, slug) for version in VERSIONS}

    for layer in range(trainer.HEAD_START):
        assert len({tensors[version][f"layer{layer}.weight"] for version in VERSIONS}) == 1
        assert len({tensors[version][f"layer{layer}.bias"] for version in VERSIONS}) == 1
    for layer in range(trainer.HEAD_START, len(trainer.LAYERS) - 1):
        assert len({tensors[version][f"layer{layer}.weight"] for version in VERSIONS}) == len(VERSIONS)


@pytest.mark.parametrize("slug", SLUGS)
def test_versions__all__have_bytes_of_their_own(trained: Trained, slug: str) -> None:
    assert len({trained.model(version, slug) for version in EVERY_VERSION}) == len(EVERY_VERSION)


@pytest.mark.parametrize("slug", SLUGS)
def test_slow_version__beside_the_one_it_is_made_of__as_right_with_its_weights_and_far_slower(
    trained: Trained, slug: str
) -> None:
    fast, slow = trained.model(models.SLOW_FROM, slug), trained.model(models.SLOW, slug)
    pool = digits.split(digits.load()).pool.take(np.arange(10))

    assert trained.accuracy(models.SLOW, slug) >= 0.9
    weights = {name: data for name, data in trained.tensors(models.SLOW, slug).items() if name.startswith("layer")}
    assert weights.items() <= trained.tensors(models.SLOW_FROM, slug).items()
    assert models.latency_ms(slow, pool, runs=10)[0] > 20 * models.latency_ms(fast, pool, runs=10)[0]


@pytest.mark.parametrize("version", VERSIONS)
def test_int8_variant__weights__are_stored_as_a_mebibyte_of_int8(trained: Trained, version: str) -> None:
    graph = onnx.load_from_string(trained.model(version, INT8)).graph
    stored = [numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name.endswith(".weight")]

    assert {values.dtype for values in stored} == {np.dtype(np.int8)}
    assert sum(values.nbytes for values in stored) >= MIB
    assert max(int(np.abs(values.astype(np.int16)).max()) for values in stored) == onnx_export.QUANTISED_MAX


@pytest.mark.parametrize("slug", SLUGS)
def test_model_file__loaded__keeps_the_contract(trained: Trained, slug: str) -> None:
    contents = trained.model("2", slug)
    running = golden.session(contents)
    model = onnx.load_from_string(contents)

    assert [(item.name, item.type, item.shape) for item in running.get_inputs()] == [
        ("image", "tensor(float)", [1, 64])
    ]
    assert [(item.name, item.type, item.shape) for item in running.get_outputs()] == [
        ("scores", "tensor(float)", [1, 10])
    ]
    assert model.ir_version <= 9
    assert [entry.version for entry in model.opset_import] == [17]
    scores = golden.answers(contents, digits.split(digits.load()).pool.images[:20])
    assert scores.sum(axis=1) == pytest.approx(np.ones(20), abs=1e-5)


@pytest.mark.parametrize(("old", "new"), models.DELTA_PAIRS)
def test_delta__int8__is_much_smaller_than_full(trained: Trained, old: str, new: str) -> None:
    assert models.delta_bytes(trained.out_dir, old, new, INT8) <= 0.1 * len(trained.model(new, INT8))


def test_delta__fp32__is_much_smaller_than_full_and_gives_the_new_file(trained: Trained) -> None:
    old, new = trained.model("1", FLOAT), trained.model("2", FLOAT)
    patch = bsdiff4.diff(old, new)

    assert len(patch) <= 0.1 * len(new)
    assert bsdiff4.patch(old, patch) == new


@pytest.mark.parametrize("slug", SLUGS)
@pytest.mark.parametrize("version", VERSIONS)
def test_golden_file__own_model__passes_even_where_the_model_is_bad(trained: Trained, version: str, slug: str) -> None:
    path = models.model_path(trained.out_dir, version, slug)
    document = json.loads((path.parent / "golden.json").read_bytes())
    running = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    assert 8 <= len(document["inputs"]["image"]) <= 16
    for image, scores, label in zip(
        document["inputs"]["image"], document["outputs"]["scores"], document["labels"], strict=True
    ):
        got = running.run(["scores"], {"image": np.array([image], dtype=np.float32)})[0][0]
        assert got == pytest.approx(np.array(scores), abs=document["atol"], rel=document["rtol"])
        assert digits.LABELS[int(got.argmax())] == label


def test_golden_file__another_version__fails(trained: Trained) -> None:
    document = json.loads((trained.out_dir / "v2" / FLOAT / "golden.json").read_bytes())
    images = np.array(document["inputs"]["image"], dtype=np.uint8)

    got = golden.answers(trained.model("3", FLOAT), images)

    assert np.abs(got - np.array(document["outputs"]["scores"])).max() > 0.5


@pytest.mark.parametrize("version", EVERY_VERSION)
def test_version_directory__for_push__names_files_that_are_there(trained: Trained, version: str) -> None:
    directory = models.version_dir(trained.out_dir, version)
    document = json.loads((directory / "modelfleet.json").read_bytes())

    assert [entry["dir"] for entry in document["variants"]] == [FLOAT, INT8]
    for entry in document["variants"]:
        assert "-".join((entry["runtime"], entry["precision"], entry["hardware"])) == entry["dir"]
        files = {path.name for path in (directory / entry["dir"]).iterdir()}
        assert files == {entry["weights"], document["labels"], "golden.json"}
    assert document["contract"] == {
        "inputs": {"image": ["float32", [1, 64]]},
        "outputs": {"scores": ["float32", [1, 10]]},
    }


def test_build__repeated_elsewhere__gives_the_same_bytes(trained: Trained, tmp_path: Path) -> None:
    again = models.build(tmp_path)

    assert again == trained.build
    assert not again.cached


def test_build__already_there__is_not_trained_again(trained: Trained) -> None:
    again = models.build(trained.out_dir)

    assert again.cached
    assert again.variants == trained.build.variants


def test_build__file_altered_since__is_made_again(tmp_path: Path) -> None:
    before = models.build(tmp_path)
    altered = models.model_path(tmp_path, "2", INT8)
    altered.write_bytes(altered.read_bytes()[:-1])

    after = models.build(tmp_path)

    assert not after.cached
    assert after.variants == before.variants
    assert models.delta_bytes(tmp_path, "2", "2", INT8) < 1024


def test_main__output_directory_not_writable__says_so_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")

    assert models.main([str(blocked / "out")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_quantise_columns__column_of_zeros__gives_finite_scales() -> None:
    integers, scales = onnx_export.quantise_columns(np.array([[0.0, 2.0], [0.0, -0.5]], dtype=np.float32))

    assert integers.tolist() == [[0, 63], [0, -16]]
    assert scales.tolist() == pytest.approx([1.0, 2 / 63])
