"""What may stand in an address. Anything else is a 404 before a view or a query sees it."""

from django.urls import register_converter

from device_client.wire.names import DEVICE_ID, MODEL, NAMESPACE, SHA256, VERSION


class _Converter:
    """A part of an address that stays text."""

    regex = ""

    def to_python(self, value: str) -> str:
        """As it is."""
        return value

    def to_url(self, value: str) -> str:
        """As it is."""
        return value


class ModelConverter(_Converter):
    """`vision.digits`."""

    regex = MODEL.pattern


class NamespaceConverter(_Converter):
    """`vision`."""

    regex = NAMESPACE.pattern


class VersionConverter(_Converter):
    """`3`."""

    regex = VERSION.pattern


class ReferenceConverter(_Converter):
    """A version's label, or an alias."""

    regex = r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}"


class DeviceConverter(_Converter):
    """`cam-0001`."""

    regex = DEVICE_ID.pattern


class Sha256Converter(_Converter):
    """64 hexadecimal digits."""

    regex = SHA256.pattern


class RolloutConverter(_Converter):
    """`r-0a1b2c3d4e5f`."""

    regex = r"r-[0-9a-f]{12}"


class ActionConverter(_Converter):
    """What an operator may tell a rollout."""

    regex = "pause|resume|advance|revert|cancel|override-quiet"


class ExperimentConverter(_Converter):
    """`e-0a1b2c3d4e5f`."""

    regex = r"e-[0-9a-f]{12}"


class ExperimentActionConverter(_Converter):
    """What an operator may tell an experiment."""

    regex = "start|extend|promote|stop"


class RepositoryConverter(_Converter):
    """One of the two TUF repositories."""

    regex = "image|director"


class NameConverter(_Converter):
    """An alias or a group."""

    regex = r"[a-z][a-z0-9_-]{0,62}"


class NumberConverter(_Converter):
    """A primary key that fits its column."""

    regex = r"[0-9]{1,18}"

    def to_python(self, value: str) -> int:  # type: ignore[override]  # the one part that is a number
        """As a number."""
        return int(value)


def register() -> None:
    """Make the converters known to Django, under the names that `urls` uses."""
    for name, converter in (
        ("model", ModelConverter),
        ("namespace", NamespaceConverter),
        ("version", VersionConverter),
        ("reference", ReferenceConverter),
        ("device", DeviceConverter),
        ("sha256", Sha256Converter),
        ("rollout", RolloutConverter),
        ("action", ActionConverter),
        ("experiment", ExperimentConverter),
        ("experiment_action", ExperimentActionConverter),
        ("repository", RepositoryConverter),
        ("name", NameConverter),
        ("number", NumberConverter),
    ):
        register_converter(converter, name)
