"""What can be wrong with bytes that came over the wire. Every message says what was expected and what came."""


class WireError(Exception):
    """Base of every refusal in `device_client.wire`. `code` is stable and counted; the text is for people."""

    code = "wire_error"


class MalformedMessageError(WireError):
    """The bytes are not a message of the stated schema."""

    code = "malformed_message"


class UnknownVersionError(WireError):
    """The message names a format version that this code does not speak. Never guessed at."""

    code = "unknown_version"


class OversizedError(WireError):
    """The bytes, or a field in them, are longer than the contract allows."""

    code = "oversized"


class MalformedNameError(WireError):
    """A device id, model name, version label, topic or target path is not of the agreed form."""

    code = "malformed_name"


class MalformedPatchError(WireError):
    """A delta that cannot be applied: truncated, forged or made for other bytes. The output must be discarded."""

    code = "malformed_patch"
