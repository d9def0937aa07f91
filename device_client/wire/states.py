"""The names of an update's states on a device, as they are reported. The transition table is in `core.machine`."""

from enum import Enum


class UpdateState(str, Enum):
    """Where one model's update stands on one device."""

    IDLE = "idle"
    ASSIGNED = "assigned"
    PREFLIGHT = "preflight"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    STAGED = "staged"
    SELF_TESTING = "self_testing"
    ACTIVATING = "activating"
    PROBATION = "probation"
    COMMITTED = "committed"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    SUPERSEDED = "superseded"
    HALTED = "halted"


class Transport(str, Enum):
    """How the bytes of an update came."""

    FULL = "full"
    DELTA = "delta"
    NONE = "none"  # the slot was already on the device


class FailureCode(str, Enum):
    """Why an update did not end committed. Stable: the server counts and gates on these."""

    PREFLIGHT = "preflight"  # disk, memory or a condition does not allow it
    DOWNLOAD = "download"  # gave up after retries and its deadline
    UNTRUSTED = "untrusted"  # the repositories do not authorise it, or disagree
    DIGEST_MISMATCH = "digest_mismatch"  # the bytes are not those that were signed
    INCOMPATIBLE = "incompatible"  # no runtime here can load it, or the contract does not hold
    SELF_TEST = "self_test"  # golden samples do not match
    LOAD = "load"  # failed to load at activation
    PROBATION = "probation"  # a local guard tripped after the swap
    CRASH_LOOP = "crash_loop"  # too many restarts in one deployment
    OPERATOR = "operator"  # a person at the device asked for the previous version
    INTERNAL = "internal"
