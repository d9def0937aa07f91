"""A page of things that are in a state and about a model, the newest first: rollouts, experiments."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from django.http import HttpRequest

from fleet.entrypoints.ui.queries import query, text

PAGE_ROWS: Final = 40


def listing(request: HttpRequest, states: tuple[str, ...], read: Callable[..., Sequence[Any]]) -> dict[str, object]:
    """The context of a list: its `rows` by the filters of the address, and the ways to the pages around it.

    `read` is a selector that takes `model`, `states`, `after` (an id) and `limit`.
    """
    chosen = {"state": text(request, "state", among=states), "model": text(request, "model")}
    after = text(request, "after")
    wanted = (chosen["state"],) if chosen["state"] else ()
    rows = read(model=chosen["model"], states=wanted, after=after, limit=PAGE_ROWS + 1)
    shown = rows[:PAGE_ROWS]
    return {
        "rows": shown,
        "chosen": chosen,
        "states": states,
        "is_filtered": any(chosen.values()),
        "first": query(chosen) if after else "",
        "next": query({**chosen, "after": shown[-1].id}) if len(rows) > PAGE_ROWS else "",
    }
