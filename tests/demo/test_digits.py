import gzip
from itertools import islice

import numpy as np
import pytest

from fleet.demo import digits
from fleet.demo.digits import DigitsError

# A release that changes this changes what its devices' accuracies mean.
POOL_START = [6, 8, 0, 2, 9, 3, 3, 3, 6, 3, 8, 4]


def test_load__shipped_file__has_every_sample_and_digit() -> None:
    samples = digits.load()

    assert samples.images.shape == (1797, 64)
    assert samples.images.max() == 16
    assert sorted(set(samples.labels.tolist())) == list(range(10))


def test_load__row_missing__is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = gzip.decompress(digits.file_bytes()).splitlines(keepends=True)
    monkeypatch.setattr(digits, "file_bytes", lambda: gzip.compress(b"".join(rows[1:])))

    with pytest.raises(DigitsError, match=r"got a table of \(1796, 65\)"):
        digits.load()


def test_load__pixel_out_of_range__is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    content = gzip.decompress(digits.file_bytes())
    monkeypatch.setattr(digits, "file_bytes", lambda: gzip.compress(content.replace(b"0,0,5,", b"0,0,17,", 1)))

    with pytest.raises(DigitsError, match="pixels up to 17"):
        digits.load()


def test_samples__written_to__refuse() -> None:
    with pytest.raises(ValueError, match="read-only"):
        digits.load().labels[0] = 1


def test_split__shipped_file__keeps_the_pool_that_every_release_shares() -> None:
    parts = digits.split(digits.load())

    assert (len(parts.train), len(parts.pool)) == (1000, 797)
    assert parts.pool.labels[:12].tolist() == POOL_START


def test_split__both_parts__hold_every_sample_once() -> None:
    samples = digits.load()
    parts = digits.split(samples)

    def sorted_rows(*sets: digits.Samples) -> list[bytes]:
        return sorted(row.tobytes() for part in sets for row in np.column_stack((part.images, part.labels)))

    assert sorted_rows(parts.train, parts.pool) == sorted_rows(samples)


def test_draws__same_seed__same_stream() -> None:
    pool = digits.split(digits.load()).pool

    def first_labels(seed: str) -> list[int]:
        return [sample.label for sample in islice(digits.draws(pool, seed), 50)]

    assert first_labels("cam-01") == first_labels("cam-01")
    assert first_labels("cam-01") != first_labels("cam-02")


def test_draws__any__pair_images_with_their_labels() -> None:
    pool = digits.split(digits.load()).pool
    known = {image.tobytes(): int(label) for image, label in zip(pool.images, pool.labels, strict=True)}

    assert all(known[sample.image.tobytes()] == sample.label for sample in islice(digits.draws(pool, "x"), 200))
