"""The pages' forms. They check shapes, so that a slip is told beside its field; what is allowed is for services to say."""

from typing import Final

from django import forms

from fleet.domain.approvals import MAX_APPROVALS
from fleet.domain.errors import InvalidInputError
from fleet.domain.presets import PRESETS
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
