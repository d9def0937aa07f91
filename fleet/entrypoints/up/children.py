"""A child process that does not outlive its parent, even one that was killed and could tidy up nothing."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def end_with_parent() -> Callable[[], None] | None:
    """For `preexec_fn`: ask the kernel to send SIGTERM when the thread that starts the child ends. None off Linux."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        # The parent may have ended before the kernel was asked.
        if os.getppid() != parent:
            os._exit(1)

    return ask
