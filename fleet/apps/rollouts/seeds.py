"""The seeds of rollouts and experiments: which are tried, and which one is kept. For this app and for `experiments`."""

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Protocol, TypeVar

from fleet.apps.rollouts.population import Population
from fleet.domain.errors import InvalidInputError
from fleet.domain.findings import Finding

MAX_SEED_CHARS: Final = 64
SEED_DRAWS: Final = 100
REDRAW_UP_TO_DEVICES: Final = 1_000


class Plan(Protocol):
    """What a seed leads to."""

    @property
    def errors(self) -> Sequence[Finding]:
        """Why it cannot work."""


Tried = TypeVar("Tried", bound=Plan)


def drawn(seed: str | None) -> Iterator[str]:
    """The given seed, or as many random ones as are asked for; raises `InvalidInputError` for one that cannot be one."""
    if seed is None:
        yield from (secrets.token_hex(8) for _ in range(SEED_DRAWS))
        return
    if not 1 <= len(seed) <= MAX_SEED_CHARS or "\x00" in seed:
        raise InvalidInputError("seed_invalid", f"expected a seed of 1 to {MAX_SEED_CHARS} characters, got {len(seed)}")
    yield seed


def provisional(subject: str, seed: str | None) -> Iterable[str]:
    """What a dry run tries: the given seed, or the same ones every time, so that two dry runs say the same."""
    return drawn(seed) if seed else (f"plan:{subject}:{number}" for number in range(SEED_DRAWS))


def first_that_works(
    seeds: Iterable[str], attempt: Callable[[str], tuple[Population, Tried]]
) -> tuple[str, Population, Tried]:
    """The first of these seeds (one at least) whose plan has no error, or the last one tried, with whom it finds.

    On a small fleet most orders put too few devices where a phase or an arm needs them. Drawing again looks at counts
    alone, before anything was measured, so it favours no side. A large fleet is counted once: its order hardly matters.
    """
    drawing = iter(seeds)
    seed = next(drawing)
    people, planned = attempt(seed)
    while planned.errors and people.eligible <= REDRAW_UP_TO_DEVICES:
        following = next(drawing, None)
        if following is None:
            break
        seed, (people, planned) = following, attempt(following)
    return seed, people, planned
