"""The UCI handwritten digits: what the demo's models learn from and what its devices see.

It reads the shipped file, splits it once and for all into a training part and a held-out pool, and draws from a part.
It neither trains nor scales anything: pixels stay the integers 0..16 that the data set has. Source and licence of the
data are in `data/ATTRIBUTION.md`.

The split and the draws use a hash and Python's Mersenne Twister rather than NumPy's generators, whose streams may
change between releases: devices of any age must share one pool.
"""

import gzip
import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

LABELS = tuple(str(digit) for digit in range(10))
PIXELS = 64
PIXEL_MAX = 16
SAMPLES = 1797
TRAIN_SAMPLES = 1000
SPLIT_SALT = "modelfleet-demo-split-1"


class Sample(NamedTuple):
    """One image as a row of 64 pixels (uint8, 0..16) and the digit that its writer meant."""

    image: npt.NDArray[np.uint8]
    label: int


@dataclass(frozen=True)
class Samples:
    """Images of shape (n, 64) and their digits of shape (n,), both uint8 and read-only."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, index: int) -> Sample:
        return Sample(self.images[index], int(self.labels[index]))

    def take(self, indexes: npt.NDArray[np.intp]) -> "Samples":
        """The samples at `indexes`, in that order."""
        return _frozen(self.images[indexes], self.labels[indexes])


@dataclass(frozen=True)
class Split:
    """What models are trained on, and the pool that no model ever sees in training."""

    train: Samples
    pool: Samples


class DigitsError(ValueError):
    """The shipped data file is not what the demo was built with."""


def file_bytes() -> bytes:
    """The shipped file, still compressed."""
    return resources.files("fleet.demo").joinpath("data", "digits.csv.gz").read_bytes()


def load() -> Samples:
    """All 1,797 samples in the order of the file.

    Raises:
        DigitsError: the file has another shape or a value out of range.
    """
    lines = gzip.decompress(file_bytes()).decode("ascii").splitlines()
    rows = np.array([line.split(",") for line in lines], dtype=np.uint8)
    if rows.shape != (SAMPLES, PIXELS + 1):
        raise DigitsError(f"digits file: got a table of {rows.shape}, expected {(SAMPLES, PIXELS + 1)}")
    images, labels = rows[:, :PIXELS], rows[:, PIXELS]
    if images.max() > PIXEL_MAX or labels.max() >= len(LABELS):
        raise DigitsError(f"digits file: got pixels up to {images.max()} and labels up to {labels.max()}")
    return _frozen(images, labels)


def split(samples: Samples) -> Split:
    """Shuffles by a salted hash of each row's number: 1,000 samples to train on, the other 797 for the pool."""
    order = np.array(sorted(range(len(samples)), key=_shuffled_place), dtype=np.intp)
    return Split(train=samples.take(order[:TRAIN_SAMPLES]), pool=samples.take(order[TRAIN_SAMPLES:]))


def draws(pool: Samples, seed: str) -> Iterator[Sample]:
    """An endless stream of samples drawn uniformly, with replacement; the same seed draws the same stream."""
    dice = random.Random(seed)  # noqa: S311 - a reproducible stream, no secret
    while True:
        yield pool.at(dice.randrange(len(pool)))


def _shuffled_place(index: int) -> bytes:
    return hashlib.sha256(f"{SPLIT_SALT}:{index}".encode()).digest()


def _frozen(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]) -> Samples:
    images, labels = np.ascontiguousarray(images), np.ascontiguousarray(labels)
    images.flags.writeable = False
    labels.flags.writeable = False
    return Samples(images=images, labels=labels)
