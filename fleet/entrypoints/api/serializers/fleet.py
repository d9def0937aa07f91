"""Devices, groups, labels, figures, the audit log."""

from typing import Any

from rest_framework import serializers
from rest_framework.serializers import Serializer

from fleet.domain.filters.syntax import MAX_CHARS
from fleet.entrypoints.api.pagination import PageQuery
from fleet.entrypoints.api.serializers.fields import PlainField


class DeviceQuery(PageQuery):
    """Which devices; all conditions hold."""

    model = serializers.CharField(required=False, max_length=63)
    version = serializers.CharField(required=False, max_length=64, help_text="What they attest; needs `model`.")
    hardware_class = serializers.CharField(required=False, max_length=63)
    state = serializers.ChoiceField(["active", "quarantined", "revoked"], required=False)
    online = serializers.BooleanField(required=False, allow_null=True, default=None)
    group = serializers.CharField(required=False, max_length=63)
    search = serializers.CharField(required=False, max_length=63, help_text="A part of the id.")
    filter = serializers.CharField(
        required=False,
        max_length=MAX_CHARS,
        help_text='As in a policy\'s population: `hw == "jetson-orin" and attributes.site in ("a", "b")`.',
    )


class RunningSerializer(Serializer[Any]):
    """What a device last attested for one model."""

    model = serializers.CharField()
    version = serializers.CharField(source="active_version", help_text="Empty: nothing of ours yet.")
    digest = serializers.CharField(source="active_digest")
    target_version = serializers.CharField()
    state = serializers.CharField()
    failure = serializers.CharField()
    detail = serializers.CharField()
    revision = serializers.IntegerField()
    active_since_at = serializers.DateTimeField(allow_null=True)
    updated_at = serializers.DateTimeField()


class DeviceSerializer(Serializer[Any]):
    """A device and what it last said of itself."""

    device_id = serializers.CharField(source="id")
    state = serializers.CharField()
    hardware_class = serializers.CharField()
    attributes = PlainField(help_text="Names to texts, as filters see them.")
    capabilities = PlainField(help_text="What it probed of itself: docs/devices.md.")
    client_version = serializers.CharField()
    online = serializers.BooleanField()
    enrolled_at = serializers.DateTimeField()
    last_check_at = serializers.DateTimeField(allow_null=True)
    last_seen_at = serializers.DateTimeField(allow_null=True)
    groups = serializers.ListField(child=serializers.CharField())
    running = RunningSerializer(source="models", many=True)


class ExplainQuery(Serializer[Any]):
    """For which model."""

    model = serializers.CharField(max_length=63)


class StepSerializer(Serializer[Any]):
    """One step of a decision."""

    subject = serializers.CharField()
    outcome = serializers.CharField(help_text="`taken`, `passed` or `refused`.")
    sentence = serializers.CharField()


class ExplanationSerializer(Serializer[Any]):
    """What a device was last told for a model, and why."""

    device_id = serializers.CharField()
    model = serializers.CharField()
    version = serializers.CharField()
    digest = serializers.CharField()
    rollout = serializers.CharField()
    arm = serializers.CharField()
    phase = serializers.IntegerField()
    revision = serializers.IntegerField()
    decision = serializers.CharField()
    because = serializers.CharField()
    trace = StepSerializer(many=True)
    decided_at = serializers.DateTimeField()


class EventSerializer(Serializer[Any]):
    """One line of a device's timeline."""

    at = serializers.DateTimeField()
    received_at = serializers.DateTimeField()
    model = serializers.CharField()
    version = serializers.CharField()
    rollout = serializers.CharField()
    state = serializers.CharField()
    report = PlainField(help_text="The device's own report, as it sent it.")


class TimelineQuery(Serializer[Any]):
    """How many."""

    limit = serializers.IntegerField(min_value=1, max_value=1_000, default=500)


class TimelineSerializer(Serializer[Any]):
    """The newest reports of a device, in the form of a single page."""

    next = serializers.CharField(allow_null=True, default=None)
    previous = serializers.CharField(allow_null=True, default=None)
    results = EventSerializer(many=True)


class GroupBody(Serializer[Any]):
    """The devices that a group is to hold."""

    devices = serializers.ListField(child=serializers.CharField(max_length=63), max_length=10_000)


class GroupSerializer(Serializer[Any]):
    """A named set of devices."""

    name = serializers.CharField()
    devices = serializers.IntegerField(help_text="How many.")


class LabelBody(Serializer[Any]):
    """What one prediction should have been."""

    prediction = serializers.CharField(max_length=400)
    label = serializers.CharField(max_length=64)  # type: ignore[assignment]  # DRF takes fields off the class
    correct = serializers.BooleanField()
    source = serializers.CharField(max_length=32, default="api")  # type: ignore[assignment]  # as above


class LabelsBody(Serializer[Any]):
    """Labels that people or a pipeline bring."""

    labels = serializers.ListField(child=LabelBody(), allow_empty=False, max_length=500)


class LabelsSerializer(Serializer[Any]):
    """How many labels were taken."""

    received = serializers.IntegerField()
    new = serializers.IntegerField(help_text="Not stored before; unknown devices are left out.")


class PerformanceRowSerializer(Serializer[Any]):
    """Totals of one version on one hardware class; the empty class means all. For display, not for a verdict."""

    version = serializers.CharField()
    hardware_class = serializers.CharField()
    devices = serializers.IntegerField()
    n = serializers.IntegerField()
    errors = serializers.IntegerField()  # type: ignore[assignment]  # DRF takes fields off the class
    nan = serializers.IntegerField()
    p50_ms = serializers.FloatField(allow_null=True)
    p95_ms = serializers.FloatField(allow_null=True)
    mean_ms = serializers.FloatField(allow_null=True)
    labels = serializers.IntegerField()
    correct = serializers.IntegerField()
    accuracy = serializers.FloatField(allow_null=True)


class RunningCountSerializer(Serializer[Any]):
    """How many devices of a class attest a version."""

    version = serializers.CharField()
    hardware_class = serializers.CharField()
    count = serializers.IntegerField()
    online = serializers.IntegerField()


class PerformanceSerializer(Serializer[Any]):
    """How the versions of a model do in the field."""

    model = serializers.CharField()
    failed_inferences = serializers.IntegerField()
    overall = PerformanceRowSerializer(many=True)
    by_class = PerformanceRowSerializer(many=True)
    running = RunningCountSerializer(many=True)


class DroppedSerializer(Serializer[Any]):
    """How often messages were refused for a reason, and the last one."""

    kind = serializers.CharField()
    code = serializers.CharField()
    count = serializers.IntegerField()
    last_device_id = serializers.CharField()
    last_detail = serializers.CharField()
    last_at = serializers.DateTimeField()


class AuditQuery(PageQuery):
    """Which entries."""

    subject = serializers.CharField(required=False, max_length=128)


class EntrySerializer(Serializer[Any]):
    """One act: who did what to what, and when."""

    id = serializers.IntegerField()
    at = serializers.DateTimeField()
    actor = serializers.CharField()
    action = serializers.CharField()
    subject = serializers.CharField()
    detail = PlainField(help_text="What else there is to say of the act; depends on `action`.")
