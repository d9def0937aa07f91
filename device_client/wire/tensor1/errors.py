"""What can be wrong with a `tensor1` patch, or with the file that it is applied to. Each has a stable code."""

from device_client.wire.errors import MalformedPatchError


class TruncatedPatchError(MalformedPatchError):
    """The patch ends before its contents do."""

    code = "patch_truncated"


class PatchHeaderError(MalformedPatchError):
    """The fixed header, or what it says of the prologue, is not of this format."""

    code = "patch_header"


class PatchLimitError(MalformedPatchError):
    """The patch asks for more memory or work than any honest one does. Found before anything is allocated."""

    code = "patch_limit"


class PatchTableError(MalformedPatchError):
    """The instructions do not make exactly the announced output from inside the announced old file."""

    code = "patch_table"


class PatchPayloadError(MalformedPatchError):
    """A block's payload does not decode into what its instructions need."""

    code = "patch_payload"


class WrongBaseError(MalformedPatchError):
    """The old file is not the one that the patch was made for."""

    code = "patch_wrong_base"


class BlockMismatchError(MalformedPatchError):
    """A decoded block is not what the encoder made: a damaged patch or a damaged old file. Nothing of it was written."""

    code = "patch_block_mismatch"


class OutputMismatchError(MalformedPatchError):
    """Every block decoded, but the whole is not the announced new file. It must be discarded."""

    code = "patch_output_mismatch"


class CodecUnavailableError(MalformedPatchError):
    """The patch needs a library that this device does not have. Capabilities are asked before a patch is chosen."""

    code = "patch_codec_unavailable"
