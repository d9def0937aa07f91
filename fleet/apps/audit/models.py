"""The audit log. Private to this app."""

from django.db import models


class Entry(models.Model):
    """One act of a person, a token or a process. Rows are only ever added."""

    at = models.DateTimeField(db_index=True)
    actor = models.CharField(max_length=128)
    action = models.CharField(max_length=64)
    subject = models.CharField(max_length=128, db_index=True)
    detail = models.JSONField(default=dict)

    class Meta:
        ordering = ["-at", "-id"]
        verbose_name_plural = "entries"

    def __str__(self) -> str:
        return f"{self.actor} {self.action} {self.subject}"
