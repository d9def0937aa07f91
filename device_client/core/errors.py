"""What can go wrong on a device, split by whose fault it is. Ports translate foreign exceptions into these.

`failure` is the stable code that the server is told when the error ends an update; `deny` says whether the same digest
under the same rollout is refused from then on. A passing condition (full disk, dead link) never denies.
"""

from typing import ClassVar

from device_client.wire.states import FailureCode


class DeviceError(Exception):
    """Base of every error of the client."""

    failure: ClassVar[FailureCode] = FailureCode.INTERNAL
    deny: ClassVar[bool] = False


class UnexpectedEventError(DeviceError):
    """The state machine has no transition for this pair; nothing has changed."""


class ConfigError(DeviceError):
    """The state directory or its configuration is not usable. Whoever set up the device must act."""


class EnrolmentError(DeviceError):
    """The server refused this device, or answered something that is not what was pinned."""


# ---------------------------------------------------------------- the server's or the publisher's fault


class TrustError(DeviceError):
    """Metadata that does not authorise what it is used for. Nothing is installed on its word."""

    failure = FailureCode.UNTRUSTED
    deny = True


class BindingError(TrustError):
    """A correctly signed bundle that is not for this device, or not the answer to what it asked."""


class ReplayError(TrustError):
    """Metadata older than what this device has already accepted, whatever its files say."""


class MetadataError(TrustError):
    """A signature, version, threshold, length or expiry does not hold."""


class NotAuthorisedError(TrustError):
    """The director names what the pipeline has not signed, or signed otherwise."""


class IncompatibleError(DeviceError):
    """Signed, but not for this device: hardware, runtime, precision, contract, memory."""

    failure = FailureCode.INCOMPATIBLE
    deny = True


class DigestMismatchError(DeviceError):
    """The bytes are complete and are not those that were signed."""

    failure = FailureCode.DIGEST_MISMATCH
    deny = True


class PatchError(DeviceError):
    """A delta that could not be applied. Never ends an update: the full file is fetched instead."""


class LoadError(DeviceError):
    """The runtime does not load the file."""

    failure = FailureCode.LOAD
    deny = True


class SelfTestError(DeviceError):
    """The loaded model does not answer its golden samples as signed."""

    failure = FailureCode.SELF_TEST
    deny = True


# ---------------------------------------------------------------- the network's fault


class TransferError(DeviceError):
    """The bytes did not come. Retried with back-off until the policy's deadline."""

    failure = FailureCode.DOWNLOAD


class TicketError(TransferError):
    """The ticket is unknown or has expired: ask the director again."""


class GoneError(TicketError):
    """The ticket is good, the file behind it is no longer there. No new ticket brings it back."""


class StalledError(TransferError):
    """The peer sends, but so slowly that it is as good as nothing."""


class ShortBodyError(TransferError):
    """The peer ended its answer in good order, before the announced length: no cut link, and the next answer may be the same."""


class KilledError(TransferError):
    """The process that applied a patch was killed from outside. What it had made is kept."""


class CancelledError(TransferError):
    """We stopped the transfer ourselves: halted, superseded or shutting down."""


# ---------------------------------------------------------------- this device's condition


class ClockError(DeviceError):
    """The clock stands before a time that was signed: expiry cannot be judged, so nothing is accepted."""


class NoSpaceError(DeviceError):
    """The disk does not hold what would have to be downloaded."""

    failure = FailureCode.PREFLIGHT


class StorageError(DeviceError):
    """The client's own file cannot be written now: the disk is full, read-only or failing. What runs goes on."""


class SlotDamagedError(DeviceError):
    """A slot's files are not what its name promises. It may be fetched again."""

    failure = FailureCode.LOAD


class NotReadyError(DeviceError):
    """No model has ever been installed here and the application brought no fallback."""
