"""ONNX Runtime: loads from memory, runs on the processor, one thread unless told otherwise."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import onnxruntime

from device_client.core.errors import LoadError
from device_client.ports import Probe
from device_client.wire.bundles import Manifest

# What a released ONNX Runtime accepts, by its minor version (its documentation, "Compatibility"): opset of ai.onnx
# and IR version. A newer one than listed is taken to do what the newest listed does.
SUPPORTED: Final[Mapping[int, tuple[int, int]]] = {
    14: (19, 8), 15: (19, 9), 16: (19, 9), 17: (20, 9), 18: (21, 10), 19: (21, 10), 20: (21, 10), 21: (22, 10),
    22: (23, 11), 23: (23, 11),
}  # fmt: skip
DTYPES: Final = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16", "tensor(int8)": "int8",
    "tensor(uint8)": "uint8", "tensor(int16)": "int16", "tensor(uint16)": "uint16", "tensor(int32)": "int32",
    "tensor(uint32)": "uint32", "tensor(int64)": "int64", "tensor(uint64)": "uint64", "tensor(bool)": "bool",
}  # fmt: skip
ACCELERATORS: Final = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "tensorrt"}
QUIET: Final = 3  # errors only


class OnnxModel:
    """One session."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session: onnxruntime.InferenceSession | None = session
        self._outputs = [item.name for item in session.get_outputs()]
        self._dtypes = {item.name: DTYPES.get(item.type) for item in session.get_inputs()}
        self._shapes = {item.name: tuple(item.shape) for item in session.get_inputs()}

    def infer(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        if self._session is None:
            raise LoadError("expected an open model, got a closed one")
        fed = {
            name: value if isinstance(value, np.ndarray) else np.asarray(value, dtype=self._dtypes.get(name))
            for name, value in inputs.items()
        }
        return dict(zip(self._outputs, self._session.run(None, fed), strict=True))

    def metadata(self) -> Mapping[str, str]:
        if self._session is None:
            return {}
        return {str(key): str(value) for key, value in self._session.get_modelmeta().custom_metadata_map.items()}

    def zeros(self) -> Mapping[str, Any]:
        """An input of every name, all zeros, with free dimensions of one: what a warm-up can always be fed."""
        return {
            name: np.zeros([size if isinstance(size, int) else 1 for size in shape], dtype=self._dtypes[name])
            for name, shape in self._shapes.items()
            if self._dtypes[name] is not None
        }

    def close(self) -> None:
        self._session = None


class OnnxRuntime:
    """`ports.Runtime` over ONNX Runtime."""

    name = "onnx"

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads

    def probe(self) -> Probe:
        version = str(onnxruntime.__version__)
        major, minor = (int(part) for part in version.split(".")[:2])
        known = minor if major == 1 else max(SUPPORTED)
        opset, ir_version = SUPPORTED.get(known, SUPPORTED[max(SUPPORTED)] if known > max(SUPPORTED) else (19, 8))
        accelerators = tuple(
            short for name, short in ACCELERATORS.items() if name in onnxruntime.get_available_providers()
        )
        return Probe(version, opset, ir_version, accelerators)

    def load(self, weights: bytes, manifest: Manifest) -> OnnxModel:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = QUIET
        try:
            session = onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise LoadError(f"ONNX Runtime: {error}"[:300]) from error
        model = OnnxModel(session)
        _match(manifest, model)
        try:
            model.infer(model.zeros())
        except Exception as error:
            raise LoadError(f"warm-up: {error}"[:300]) from error
        return model


def _match(manifest: Manifest, model: OnnxModel) -> None:
    """The file has the inputs that its signed contract names."""
    missing = sorted(set(manifest.contract.inputs) - set(model.zeros()))
    if missing:
        raise LoadError(f"expected inputs {missing} as in the contract, got {sorted(model.zeros())}")
