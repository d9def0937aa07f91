"""Words of the command line read into values: durations, `model@version`, `key=value`."""

import re
from argparse import ArgumentTypeError
from typing import Final

from device_client.wire.errors import WireError
from device_client.wire.names import parse_model, parse_version

UNITS_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)")


def parse_duration_s(text: str) -> float:
    """`90`, `90s`, `15m`, `72h`, `3d` in seconds."""
    match = DURATION.fullmatch(text)
    if match is None:
        raise ArgumentTypeError(f"expected a duration such as 90s, 15m, 72h or 3d, got {text!r}")
    return float(match[1]) * UNITS_S[match[2] or "s"]


def parse_model_name(text: str) -> str:
    """`<namespace>.<name>`."""
    try:
        return parse_model(text)
    except WireError as error:
        raise ArgumentTypeError(str(error)) from error


def parse_model_version(text: str) -> tuple[str, str]:
    """`vision.digits@2` or `vision.digits@champion`: the model, and a version's label or an alias."""
    model, separator, version = text.partition("@")
    if not separator:
        raise ArgumentTypeError(f"expected <model>@<version>, such as vision.digits@2, got {text!r}")
    try:
        return parse_model(model), parse_version(version)
    except WireError as error:
        raise ArgumentTypeError(str(error)) from error


def parse_pair(text: str) -> tuple[str, str]:
    """`key=value`."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ArgumentTypeError(f"expected key=value, got {text!r}")
    return key, value


def show_time(moment: object) -> str:
    """An ISO time of the server for people: whole seconds, UTC as the server has it; nothing for none."""
    date, _, time = str(moment or "").partition("T")
    return f"{date} {time[:8]}Z" if time else date


def show_bytes(count: int) -> str:
    """A number of bytes for people: `1.2 MB`."""
    for factor, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= factor:
            return f"{count / factor:,.1f} {unit}"
    return f"{count} B"
