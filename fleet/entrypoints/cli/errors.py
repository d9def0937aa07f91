"""What ends a command. One line for people, a stable code for scripts, an exit code."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What `modelfleet` tells the shell."""

    HEALTHY = 0
    ERROR = 1
    ROLLED_BACK = 2
    HELD = 3  # or inconclusive: somebody has to decide
    INCOMPATIBLE = 4  # no device could run it
    INTERRUPTED = 130


class CommandError(Exception):
    """The command cannot go on. `message` says what was expected and what came."""

    def __init__(self, code: str, message: str, exit_code: ExitCode = ExitCode.ERROR) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.exit_code = exit_code


class ServerRefusedError(CommandError):
    """The server answered no; `code` is the server's."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(code, message)
        self.status = status
