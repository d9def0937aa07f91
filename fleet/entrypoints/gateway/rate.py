"""How often each device may ask. Pure: token buckets in memory, the time is an argument."""

from collections import OrderedDict
from typing import Final

MAX_TRACKED: Final = 200_000


class RateLimit:
    """Lets each key through `burst` times at once and `per_second` times a second in the long run.

    Bounded: of more than `MAX_TRACKED` keys the one that was quiet for longest is forgotten, which lets it through.
    """

    def __init__(self, *, per_second: float, burst: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def admits(self, key: str, now_s: float) -> bool:
        """Whether `key` may pass at `now_s`, in seconds of a clock that never runs backwards; counts it if so."""
        left, since_s = self._left.pop(key, (self._burst, now_s))
        left = min(self._burst, left + (now_s - since_s) * self._per_second)
        admitted = left >= 1
        self._left[key] = (left - 1 if admitted else left, now_s)
        if len(self._left) > MAX_TRACKED:
            self._left.popitem(last=False)
        return admitted
