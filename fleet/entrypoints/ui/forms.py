"""The pages' forms. They check shapes, so that a slip is told beside its field; what is allowed is for services to say."""

import json
from collections.abc import Sequence
from typing import Any, Final

from django import forms

from fleet.domain.approvals import MAX_APPROVALS
from fleet.domain.errors import InvalidInputError
from fleet.domain.filters.syntax import MAX_CHARS as MAX_FILTER_CHARS
from fleet.domain.presets import PRESET_WORDS, PRESETS
from fleet.domain.quiet import window_of

ATTRIBUTE_LINES: Final = 64
HOUR_S: Final = 3_600


class ClaimForm(forms.Form):
    """Allow one device to enrol."""

    LIFETIMES: Final = {str(HOUR_S): "1 hour", str(24 * HOUR_S): "1 day", str(7 * 24 * HOUR_S): "7 days"}

    device_id = forms.CharField(
        label="Device id",
        max_length=63,
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false", "placeholder": "press-07"}),
        help_text="Lower-case letters, digits and hyphens. It is the device's name for good.",
    )
    hardware_class = forms.CharField(
        label="Hardware class",
        max_length=63,
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false", "list": "known-classes"}),
        help_text="Devices of one class are judged together: same board, same accelerator.",
    )
    attributes = forms.CharField(
        label="Attributes",
        required=False,
        max_length=8_192,
        widget=forms.Textarea(attrs={"rows": 3, "spellcheck": "false", "placeholder": "site=oslo\nline=3"}),
        help_text="Optional: one name=value a line, for filters.",
    )
    expires_in_s = forms.TypedChoiceField(
        label="Valid for", choices=list(LIFETIMES.items()), coerce=int, initial=str(24 * HOUR_S)
    )

    def clean_attributes(self) -> dict[str, str]:
        """`name=value` lines as a mapping."""
        lines = [line.strip() for line in str(self.cleaned_data["attributes"]).splitlines() if line.strip()]
        if len(lines) > ATTRIBUTE_LINES:
            raise forms.ValidationError(f"Expected at most {ATTRIBUTE_LINES} lines, got {len(lines)}.")
        wrong = [line for line in lines if not line.partition("=")[0].strip() or "=" not in line]
        if wrong:
            raise forms.ValidationError(f"Expected name=value on every line, got “{wrong[0][:60]}”.")
        pairs = [line.partition("=") for line in lines]
        return {name.strip(): value.strip() for name, _, value in pairs}


class WebhookForm(forms.Form):
    """An address that is to be told of what happens."""

    url = forms.CharField(
        label="Address", max_length=500, widget=forms.URLInput(attrs={"placeholder": "https://hooks.example.org/x"})
    )
    events = forms.CharField(
        label="Events",
        max_length=1_000,
        initial="rollout.*",
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
        help_text="Separated by blanks: rollout.revert, version.*, or * for everything.",
    )
    namespace = forms.CharField(
        label="Namespace", required=False, max_length=31, help_text="Only what happens in it; empty: everything."
    )

    def clean_events(self) -> list[str]:
        """One pattern a word."""
        return str(self.cleaned_data["events"]).split()


class NamespaceForm(forms.Form):
    """The rules of a namespace."""

    approvals = forms.IntegerField(
        label="Approvals",
        min_value=0,
        max_value=MAX_APPROVALS,
        help_text="How many other people have to approve each rollout, at least.",
    )
    quiet = forms.CharField(
        label="Quiet hours",
        required=False,
        max_length=2_000,
        widget=forms.Textarea(
            attrs={"rows": 3, "spellcheck": "false", "placeholder": "fri,sat 22:00-06:00 Europe/Berlin"}
        ),
        help_text="A window a line: days (or daily), hours, time zone. Nothing starts or goes on by itself in them.",
    )

    def clean_quiet(self) -> list[dict[str, object]]:
        """A window a line."""
        try:
            return [window_of(line) for line in str(self.cleaned_data["quiet"]).splitlines() if line.strip()]
        except InvalidInputError as error:
            raise forms.ValidationError(error.message) from error


class StopForm(forms.Form):
    """What is to be stopped, or let go, and why."""

    scope = forms.CharField(
        label="Model, namespace, or *",
        max_length=63,
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false", "placeholder": "vision.defects"}),
        help_text="A star stops everything. Rollouts are held, downloads end, nothing new is offered.",
    )
    reason = forms.CharField(
        label="Reason",
        max_length=500,
        widget=forms.TextInput(attrs={"autocomplete": "off", "placeholder": "shown to everybody who asks why"}),
    )
    lift = forms.BooleanField(required=False, widget=forms.HiddenInput())


class StartForm(forms.Form):
    """A rollout: of what, by which preset, to whom. `is_seen` comes with the start, from beside the dry run."""

    model = forms.ChoiceField(label="Model")
    version = forms.CharField(
        label="Version or alias",
        max_length=64,
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false", "list": "latest-versions"}),
    )
    preset = forms.ChoiceField(
        label="Policy",
        choices=[(name, f"{name}: {words}") for name, words in PRESET_WORDS.items()],
        initial="safe-ramp",
    )
    hardware_classes = forms.CharField(
        label="Hardware classes",
        required=False,
        max_length=4_096,
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
        help_text="Separated by blanks; empty: all.",
    )
    filter = forms.CharField(
        label="Filter",
        required=False,
        max_length=MAX_FILTER_CHARS,
        widget=forms.Textarea(attrs={"rows": 2, "spellcheck": "false", "placeholder": 'attributes.site == "oslo"'}),
        help_text="The language of the page of devices; empty: all.",
    )
    changes = forms.CharField(
        label="Further fields of the policy",
        required=False,
        max_length=65_536,
        widget=forms.Textarea(
            attrs={"rows": 3, "spellcheck": "false", "placeholder": '{"gates": {"accuracy": {"margin_points": 2}}}'}
        ),
        help_text="JSON, laid over the preset: gates, windows, pacing, approvals, ...",
    )
    is_seen = forms.BooleanField(required=False, widget=forms.HiddenInput())

    def __init__(self, *positional: Any, models: Sequence[str], **named: Any) -> None:
        super().__init__(*positional, **named)
        self.fields["model"].choices = [(name, name) for name in models]  # type: ignore[attr-defined]

    def clean_changes(self) -> dict[str, Any]:
        """A JSON object; nothing means no changes."""
        try:
            changes = json.loads(self.cleaned_data["changes"] or "{}")
        except (ValueError, RecursionError) as error:
            raise forms.ValidationError(f"Expected JSON, got {error}.") from error
        if not isinstance(changes, dict):
            raise forms.ValidationError(f"Expected an object, got {type(changes).__name__}.")
        if not isinstance(changes.get("population") or {}, dict):
            raise forms.ValidationError(f"Expected an object for population, got {changes['population']!r:.60}.")
        return changes

    def policy(self) -> dict[str, Any]:
        """As the rollout takes it. What the fields say comes before the changes."""
        said = {
            "hardware_classes": self.cleaned_data["hardware_classes"].split(),
            "filter": self.cleaned_data["filter"],
        }
        changes = self.cleaned_data["changes"]
        population = {**(changes.get("population") or {}), **{name: value for name, value in said.items() if value}}
        return {"preset": self.cleaned_data["preset"], **changes, "population": population}


class ActionForm(forms.Form):
    """Why a person intervenes in a rollout, and which state of it they were looking at."""

    reason = forms.CharField(
        label="Reason",
        max_length=300,
        widget=forms.TextInput(
            attrs={"autocomplete": "off", "placeholder": "shown with the decision and in the audit"}
        ),
    )
    revision = forms.IntegerField(min_value=0, widget=forms.HiddenInput())


class ExtendForm(ActionForm):
    """How much longer an experiment may take."""

    LONGER: Final = {str(days * 24 * HOUR_S): f"{days} days" for days in (1, 3, 7, 14, 30)}

    extra_s = forms.TypedChoiceField(label="Longer by", choices=list(LONGER.items()), coerce=float)


class PromoteForm(ActionForm):
    """By which policy the winner goes on."""

    policy = forms.ChoiceField(label="Policy", choices=[(name, name) for name in PRESETS], initial="safe-ramp")
