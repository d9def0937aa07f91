"""What the agent tells the server, as drafts that the outbox numbers."""

from device_client.core.deployment import Report
from device_client.core.vitals import Window
from device_client.ports import Draft
from device_client.wire.messages import Label, LabelBatch, MessageKey, StateReport


def state_draft(report: Report, *, active_digest: str, active_version: str, now: float) -> Draft:
    """A transition, with what the device serves after it: the attestation."""
    told, aim = report.deployment, report.deployment.aim

    def draft(key: MessageKey) -> bytes:
        return StateReport(
            key=key,
            at=int(now),
            model=told.model,
            version=aim.version,
            digest=aim.digest,
            rollout=aim.rollout,
            revision=aim.revision,
            state=report.state,
            active_version=active_version,
            active_digest=active_digest,
            transport=told.transport,
            bytes_received=told.bytes_received,
            bytes_total=told.bytes_total,
            resumed_from=told.resumed_from,
            failure=told.failure,
            detail=told.detail,
            codec=told.codec,
            fallbacks=told.fallbacks,
        ).encode()

    return draft


def window_draft(window: Window, *, ended_at: float, clock_trusted: bool, rss_bytes: int) -> Draft:
    """A finished window."""

    def draft(key: MessageKey) -> bytes:
        return window.message(key, ended_at=ended_at, clock_trusted=clock_trusted, rss_bytes=rss_bytes).encode()

    return draft


def label_draft(labels: tuple[Label, ...]) -> Draft:
    """A batch of labels."""

    def draft(key: MessageKey) -> bytes:
        return LabelBatch(key, labels).encode()

    return draft
