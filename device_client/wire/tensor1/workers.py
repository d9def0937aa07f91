"""Blocks that are made beside each other, and come in order all the same."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol, TypeVar

_Key = TypeVar("_Key")
_Result = TypeVar("_Result")
_Result_co = TypeVar("_Result_co", covariant=True)

# Blocks that are under way at once.
_AHEAD: Final = 6


class Pending(Protocol[_Result_co]):
    """Work that somebody else does."""

    def result(self) -> _Result_co:
        """What came of it, once it is there; raises what it raised."""
        ...


class Workers(Protocol):
    """Do blocks beside each other: an executor of threads is one. Devices have none, and decode one after the other."""

    def submit(self, work: Callable[[], _Result], /) -> Pending[_Result]:
        """Begin one."""
        ...


def in_order(
    work: Iterable[tuple[_Key, Callable[[], _Result]]], workers: Workers | None
) -> Iterator[tuple[_Key, _Result]]:
    """What comes of each, in order: made when it is asked for or, with workers, a few at a time."""
    if workers is None:
        for key, make in work:
            yield key, make()
        return
    waiting: deque[tuple[_Key, Pending[_Result]]] = deque()
    for key, make in work:
        waiting.append((key, workers.submit(make)))
        if len(waiting) >= _AHEAD:
            first, pending = waiting.popleft()
            yield first, pending.result()
    while waiting:
        first, pending = waiting.popleft()
        yield first, pending.result()
