"""What a person may do to a rollout or an experiment: asked for with a reason, done once, told afterwards.

The form carries the revision that the person saw: if the thing has moved on since, nothing is done.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponseRedirect

from fleet.domain.errors import ModelfleetError
from fleet.entrypoints.ui.access import actor_of, identity_of
from fleet.entrypoints.ui.forms import ActionForm


@dataclass(frozen=True)
class Action:
    """One intervention, and how the page that asks says it. `service` takes what the form asks for, and the identity of
    the person where two people decide.
    """

    name: str
    event: StrEnum
    title: str
    button: str
    icon: str
    is_danger: bool
    service: Callable[..., object]
    form: type[ActionForm] = ActionForm
    consequence: str = ""
    needs_identity: bool = False


class Subject(Protocol):
    """What the page showed."""

    @property
    def state(self) -> StrEnum:
        """Where it stands."""

    @property
    def revision(self) -> int:
        """Rises with every change."""


def action_named(actions: Mapping[str, Action], name: str) -> Action:
    """Raises `Http404`."""
    if name not in actions:
        raise Http404(f"no action {name!r:.40}")
    return actions[name]


def intervene(
    request: HttpRequest,
    action: Action,
    subject: Subject,
    *,
    possible: Collection[Action],
    here: str,
    now: datetime,
    **names: str,
) -> ActionForm | HttpResponseRedirect:
    """Do it and go back to `here`, or return the form that is still to be filled in; bound, if something is wrong.

    `names` say to the service what it is about.
    """
    if action.name not in {item.name for item in possible}:
        messages.warning(request, f"{action.title}: not possible, it is {subject.state}.", extra_tags="bad")
        return HttpResponseRedirect(here)
    form = action.form(request.POST if request.method == "POST" else None, initial={"revision": subject.revision})
    if request.method != "POST" or not form.is_valid():
        return form
    said = {name: value for name, value in form.cleaned_data.items() if name != "revision"}
    if action.needs_identity:
        said["identity"] = identity_of(request)
    try:
        action.service(**names, actor=actor_of(request), now=now, if_revision=form.cleaned_data["revision"], **said)
    except ModelfleetError as error:
        form.add_error(None, error.message)
        return form
    messages.success(request, f"{action.title}: done.", extra_tags="good")
    return HttpResponseRedirect(here)
