"""Why `manage.py up` ends: each of these is one line for a person, and exit status 1."""


class UpError(Exception):
    """The installation cannot be started, or cannot be kept running."""


class BrokerMissingError(UpError):
    """There is no mosquitto, and it could not be fetched."""


class PortTakenError(UpError):
    """The port that was asked for belongs to somebody else."""


class AlreadyRunningError(UpError):
    """Another `up` runs on the same home."""


class CrashLoopError(UpError):
    """A process keeps ending as soon as it has started."""
