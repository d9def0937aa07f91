"""What a rollout's state means to a script that waits for it."""

from collections.abc import Mapping
from typing import Final

from fleet.entrypoints.cli.errors import ExitCode

# A state that is not listed here is not an outcome: waiting goes on.
OUTCOMES: Final[Mapping[str, ExitCode]] = {
    "completed": ExitCode.HEALTHY,
    "reverted": ExitCode.ROLLED_BACK,
    "cancelled": ExitCode.ROLLED_BACK,
    "held": ExitCode.HELD,
}
MEANINGS: Final[Mapping[ExitCode, str]] = {
    ExitCode.HEALTHY: "healthy",
    ExitCode.ROLLED_BACK: "rolled back",
    ExitCode.HELD: "held: somebody has to decide",
}
