"""Work that is rows. Private to this app."""

from django.db import models
from django.db.models import Q


class Job(models.Model):
    """One piece of work. Claimed by compare-and-swap; a result counts only from the holder of the current `fence`."""

    class State(models.TextChoices):
        """Where the work stands."""

        QUEUED = "queued"
        RUNNING = "running"
        DONE = "done"
        FAILED = "failed"

    kind = models.CharField(max_length=32)
    key = models.CharField(max_length=200)
    payload = models.JSONField(default=dict)
    state = models.CharField(max_length=8, choices=State.choices, default=State.QUEUED)
    priority = models.IntegerField(default=0)
    attempts = models.PositiveIntegerField(default=0)
    max_attempts = models.PositiveIntegerField(default=3)
    run_after = models.DateTimeField()
    lease_owner = models.CharField(max_length=64, blank=True)
    lease_until = models.DateTimeField(null=True)
    fence = models.PositiveBigIntegerField(default=0)
    error = models.TextField(blank=True)
    created_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                name="job_unique_while_open", fields=["kind", "key"], condition=Q(state__in=["queued", "running"])
            )
        ]
        indexes = [models.Index(name="job_claimable", fields=["state", "run_after", "-priority"])]

    def __str__(self) -> str:
        return f"{self.kind} {self.key} {self.state}"


class Answer(models.Model):
    """What a job found out for somebody who asked. Until `answered_at` nobody has; `key` is of the question."""

    key = models.CharField(max_length=100, primary_key=True)
    answer = models.JSONField(null=True)
    asked_at = models.DateTimeField()
    answered_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return self.key
