"""What the conductor could not judge."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Failure:
    """A rollout or an experiment (`subject` is its id) that could not be judged this time, and the error that stopped it."""

    subject: str
    error: Exception

    @property
    def sentence(self) -> str:
        """One line of it."""
        return f"{type(self.error).__name__}: {self.error}".splitlines()[0]
