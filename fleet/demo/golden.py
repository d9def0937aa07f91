"""Runs exported models the way a device does, and keeps some answers as golden samples.

A golden sample says "this file, loaded properly, answers this": it catches a broken runtime or a damaged load, not a
badly trained model, because the expected answers are the model's own.
"""

import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnxruntime

from fleet.demo.digits import LABELS, PIXELS, Samples


@dataclass(frozen=True)
class Tolerance:
    """Accepted difference of one score: `atol + rtol * |expected|`."""

    atol: float
    rtol: float


FLOAT_TOLERANCE = Tolerance(atol=1e-4, rtol=1e-3)
# One activation that rounds the other way on another processor moves a score by up to a few hundredths.
INT8_TOLERANCE = Tolerance(atol=0.05, rtol=0.0)


def session(model: bytes) -> onnxruntime.InferenceSession:
    """A session on one processor thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def answers(model: bytes, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Scores of shape (n, 10) for images of shape (n, 64), inferred one by one as devices do."""
    running = session(model)
    rows = images.astype(np.float32).reshape(-1, 1, PIXELS)
    return np.concatenate([running.run(["scores"], {"image": row})[0] for row in rows])


def accuracy(model: bytes, samples: Samples) -> float:
    """Share of the samples, 0..1, whose highest score is the digit that was written."""
    return float((answers(model, samples.images).argmax(axis=1) == samples.labels).mean())


def one_per_digit(samples: Samples) -> Samples:
    """The first sample of every digit, in the order of the digits."""
    return samples.take(np.array([int(np.argmax(samples.labels == digit)) for digit in range(len(LABELS))]))


def golden_file(model: bytes, samples: Samples, tolerance: Tolerance) -> bytes:
    """The `golden.json` of a variant.

    Row i of every input and output is sample i; each row is fed as a batch of one. `labels` are the names that the
    model itself gives the samples, not what their writers meant.
    """
    scores = answers(model, samples.images)
    document = {
        "inputs": {"image": samples.images.astype(np.float32).tolist()},
        "outputs": {"scores": scores.tolist()},
        "atol": tolerance.atol,
        "rtol": tolerance.rtol,
        "labels": [LABELS[place] for place in scores.argmax(axis=1)],
    }
    return (json.dumps(document, separators=(",", ":"), allow_nan=False) + "\n").encode()
