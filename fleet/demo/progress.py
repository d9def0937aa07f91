"""What a person sees while the story runs, and how the story waits: bounded, and with a reason when it gives up."""

import re
import sys
import time
from collections.abc import Callable
from typing import Final, TypeVar

Seen = TypeVar("Seen")
POLL_S: Final = 0.5
_NEXT: Final = re.compile(r"; (?=(?:BETTER|PASS|FAIL|WAIT|INCONCLUSIVE): |devices )")
_INDENT: Final = " " * 13  # as wide as the time


class StoryError(Exception):
    """A step did not end as the story says. The text says what was expected and what came."""


class Progress:
    """Numbered steps with elapsed time; one line an event, so that it reads the same in a terminal and in CI."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._step = 0

    @property
    def elapsed_s(self) -> float:
        """Seconds since the story began."""
        return time.monotonic() - self._started

    def step(self, title: str) -> None:
        """Begin the next step."""
        self._step += 1
        self._print(f"\n{self._step}. {title}")

    def say(self, text: str) -> None:
        """One thing that happened in this step."""
        self._print(f"[{self.elapsed_s:6.1f} s] {text}")

    def decided(self, what: str, sentence: str) -> None:
        """A decision with its reasons: one line where there is one, else a line for each gate or comparison."""
        first, *others = _NEXT.split(sentence)
        self.say(f"{what}: {first}")
        for other in others:
            self._print(f"{_INDENT}{other}")

    @staticmethod
    def _print(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    def wait(
        self,
        expected: str,
        look: Callable[[], Seen],
        enough: Callable[[Seen], bool],
        *,
        within_s: float,
        tell: Callable[[Seen], str] = str,
    ) -> Seen:
        """Look every `POLL_S` until it is enough; say what is seen whenever it changes.

        Raises `StoryError` naming what was expected and what was last seen.
        """
        deadline = time.monotonic() + within_s
        told = ""
        while True:
            seen = look()
            now = tell(seen)
            if now and now != told:
                self.say(now)
                told = now
            if enough(seen):
                return seen
            if time.monotonic() > deadline:
                raise StoryError(f"expected {expected} within {within_s:.0f} s, got: {now or seen}")
            time.sleep(POLL_S)
