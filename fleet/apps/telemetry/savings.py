"""What updates took over the network against full downloads, with the names that the registry knows the variants by."""

from dataclasses import dataclass

from fleet.apps.devices import selectors as devices
from fleet.apps.registry import selectors as registry


@dataclass(frozen=True)
class Saving:
    """Updates to one variant that came one way. Bytes are of `updates`; `bytes_total` are those of full downloads.

    `failed` updates were not installed; `fallbacks` counts devices that gave up a patch of this codec on the way.
    """

    model: str
    version: str
    variant: str
    format: str
    transport: str
    codec: str
    updates: int
    failed: int
    fallbacks: int
    bytes_received: int
    bytes_total: int

    @property
    def bytes_saved(self) -> int:
        """Negative where interruptions cost more than the patch saved."""
        return self.bytes_total - self.bytes_received


def savings(model: str | None = None) -> tuple[Saving, ...]:
    """By version and variant; of one model or of all. Two queries, or three for one model."""
    found = devices.traffic(None if model is None else registry.digests_of(model))
    names = registry.variants_named(item.digest for item in found)
    rows = (
        Saving(
            model=names[item.digest].model,
            version=names[item.digest].version,
            variant=names[item.digest].slug,
            format=names[item.digest].format,
            transport=item.transport,
            codec=item.codec,
            updates=item.updates,
            failed=item.failed,
            fallbacks=item.fallbacks,
            bytes_received=item.bytes_received,
            bytes_total=item.bytes_total,
        )
        for item in found
        if item.digest in names
    )
    return tuple(sorted(rows, key=lambda row: (row.model, row.version, row.variant, row.transport, row.codec)))
