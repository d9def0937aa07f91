"""`DeltaEncoder` for each codec, and `DeltaProof`, over files by offset.

Brings the libraries of all codecs with it: wiring imports it when the first patch is made, which only workers do.
"""

import hashlib
from pathlib import Path
from typing import Final

from device_client.wire import delta as decoders
from device_client.wire.delta import Codec
from device_client.wire.errors import OversizedError
from device_client.wire.tensor1.format import HEADER_BYTES
from fleet.adapters.delta_bsdiff4 import diff
from fleet.adapters.delta_files import PreadFile
from fleet.adapters.delta_proof import proven_sha256
from fleet.adapters.delta_tensor import Coding, encode
from fleet.domain.layouts import Layout, describe
from fleet.ports.delta_encoder import WeightsFile


class Tensor1Encoder:
    """Patches that know of tensors. Neither file is ever in memory as a whole."""

    def __init__(self, codec: Codec) -> None:
        self.codec: Final = codec
        self._coding = {Codec.TENSOR1: Coding.PCODEC, Codec.TENSOR1_PORTABLE: Coding.PORTABLE}[codec]

    def encode(self, old: WeightsFile, new: WeightsFile, patch: Path) -> None:
        """A patch from `old` to `new`."""
        with PreadFile(old.path) as before, PreadFile(new.path) as after, patch.open("x+b") as out:
            encode(before, after, _layout(before, old), _layout(after, new), out, coding=self._coding)


class Bsdiff4Encoder:
    """Patches that know of bytes. Both files are in memory, so their size is bounded."""

    codec = Codec.BSDIFF4

    def encode(self, old: WeightsFile, new: WeightsFile, patch: Path) -> None:
        """A patch from `old` to `new`."""
        content = diff(old.path, new.path)
        with patch.open("xb") as out:
            out.write(content)


class DeviceDecoder:
    """`DeltaProof` with the decoder that devices run."""

    def digest(self, codec: Codec, old: Path, patch: Path, expected_bytes: int) -> str:
        """The sha256 of what a device would get. `bsdiff4` takes both files' sizes in memory, the others a block's."""
        if codec is Codec.BSDIFF4:
            output = decoders.apply(codec, old.read_bytes(), patch.read_bytes(), expected_bytes=expected_bytes)
            return hashlib.sha256(output).hexdigest()
        with PreadFile(patch) as source, PreadFile(old) as before:
            announced = decoders.announced_bytes(codec, source.read_at(0, HEADER_BYTES))
            if announced != expected_bytes:
                raise OversizedError(f"expected a patch that makes {expected_bytes} bytes, got one for {announced}")
            return proven_sha256(source, before).hex()


def _layout(file: PreadFile, weights: WeightsFile) -> Layout:
    if weights.description is None:
        return describe(file)
    with PreadFile(weights.description) as beside:
        return describe(file, name=weights.name, description=beside)
