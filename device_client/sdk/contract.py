"""Contracts as an application writes them."""

from collections.abc import Mapping, Sequence

from device_client.wire.bundles import Contract, Tensor

Form = tuple[str, Sequence[int | None]]


def contract(*, inputs: Mapping[str, Form], outputs: Mapping[str, Form], labels_sha256: str | None = None) -> Contract:
    """What the application feeds and reads: `inputs={"image": ("uint8", (1, 224, 224, 3))}`; None means any size.

    A version that does not fulfil it is refused by this device before it is tried.
    """
    return Contract(
        inputs={name: Tensor(dtype, tuple(shape)) for name, (dtype, shape) in inputs.items()},
        outputs={name: Tensor(dtype, tuple(shape)) for name, (dtype, shape) in outputs.items()},
        labels_sha256=labels_sha256,
    )
