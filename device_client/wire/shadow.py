"""Shadows: a candidate that runs beside the champion on the same inputs and is never served.

`ShadowBudget` is what the director allows it (signed), `ShadowTotals` what a window says of it. Both are left out where
there is no shadow, and a device is told of one only if it said by its capabilities that it knows what that is.
"""

import base64
import binascii
from dataclasses import dataclass, field
from typing import Final

from device_client.wire import limits
from device_client.wire.errors import MalformedMessageError
from device_client.wire.fields import Fields
from device_client.wire.names import parse_sha256, parse_version
from device_client.wire.sketch import LatencySketch

THOUSAND: Final = 1_000  # signed metadata knows integers only
LEAST_SHARE: Final = 0.001


@dataclass(frozen=True)
class ShadowBudget:
    """What a shadow may take of a device: a share of the inferences, a share of one processor's time, memory in bytes.

    No `ram_bytes` means as much as the device can spare; a device that runs short drops its shadow first in any case.
    """

    inference_share: float = 0.1
    time_share: float = 0.1
    ram_bytes: int = 0

    def encode(self) -> dict[str, object]:
        """The JSON form."""
        return {
            "inference_share": self.inference_share,
            "time_share": self.time_share,
            "ram_bytes": self.ram_bytes,
        }

    @classmethod
    def parse(cls, fields: Fields) -> "ShadowBudget":
        """Inverse of `encode`; absent fields keep their defaults. Raises `WireError`."""
        default = cls()
        return cls(
            fields.number("inference_share", minimum=LEAST_SHARE, maximum=1.0, default=default.inference_share),
            fields.number("time_share", minimum=LEAST_SHARE, maximum=1.0, default=default.time_share),
            fields.integer("ram_bytes", default=default.ram_bytes),
        )

    def encode_signed(self) -> dict[str, object]:
        """The form inside signed metadata."""
        return {
            "inference_thousandths": round(self.inference_share * THOUSAND),
            "time_thousandths": round(self.time_share * THOUSAND),
            "ram_bytes": self.ram_bytes,
        }

    @classmethod
    def parse_signed(cls, fields: Fields) -> "ShadowBudget":
        """Inverse of `encode_signed`."""
        return cls(
            fields.integer("inference_thousandths", minimum=1, maximum=THOUSAND) / THOUSAND,
            fields.integer("time_thousandths", minimum=1, maximum=THOUSAND) / THOUSAND,
            fields.integer("ram_bytes", default=0),
        )


_COUNTS: Final = (
    *("n", "errors", "nan", "skipped", "compared", "agreed"),
    *("both", "only_champion", "only_candidate", "neither"),
)


@dataclass(frozen=True)
class ShadowTotals:
    """What a window says of its champion's shadow, `version` with the manifest `digest`.

    `n` inferences were asked of it, `errors` of them failed (crashes and hangs, too), `nan` had a NaN; `skipped` were
    chosen, but there was no budget for them. Of `compared` answers, `agreed` were the champion's. Where a label came for an
    inference that both had answered, it is in one of `both`, `only_champion`, `only_candidate`, `neither`, by who was
    right. Latencies in milliseconds, as the candidate's own process measured them.
    """

    version: str
    digest: str
    n: int = 0
    errors: int = 0
    nan: int = 0
    skipped: int = 0
    compared: int = 0
    agreed: int = 0
    both: int = 0
    only_champion: int = 0
    only_candidate: int = 0
    neither: int = 0
    latency: LatencySketch = field(default_factory=LatencySketch)

    @property
    def labelled(self) -> int:
        """Labels for inferences that both had answered."""
        return self.both + self.only_champion + self.only_candidate + self.neither

    @property
    def is_empty(self) -> bool:
        """Whether nothing happened."""
        return self.n == self.skipped == self.labelled == 0

    def plus(self, other: "ShadowTotals") -> "ShadowTotals":
        """Of both; they are of one version."""
        sketch = LatencySketch()
        sketch.merge(self.latency)
        sketch.merge(other.latency)
        sums = {name: getattr(self, name) + getattr(other, name) for name in _COUNTS}
        return ShadowTotals(self.version, self.digest, **sums, latency=sketch)

    def encode(self) -> dict[str, object]:
        """The JSON form; zeros are left out."""
        return {
            "version": self.version,
            "digest": self.digest,
            **{name: count for name in _COUNTS if (count := getattr(self, name))},
            "latency": base64.b64encode(self.latency.encode()).decode(),
        }

    @classmethod
    def parse(cls, fields: Fields) -> "ShadowTotals":
        """Inverse of `encode`; raises `WireError`. Counts that contradict each other are refused."""
        counts = {name: fields.integer(name, default=0, maximum=limits.MAX_INFERENCES_PER_WINDOW) for name in _COUNTS}
        try:
            payload = base64.b64decode(fields.text("latency", max_chars=2 * limits.MAX_SKETCH_BYTES), validate=True)
        except (binascii.Error, ValueError) as error:
            raise MalformedMessageError(f"shadow.latency: expected base64, got {error}") from error
        found = cls(
            fields.name("version", parse_version),
            fields.name("digest", parse_sha256),
            **counts,
            latency=LatencySketch.decode(payload),
        )
        if (
            found.agreed > found.compared
            or max(found.errors + found.compared, found.nan, found.latency.total) > found.n
        ):
            raise MalformedMessageError(
                f"shadow: expected agreed <= compared and all <= n, got n={found.n} errors={found.errors} "
                f"nan={found.nan} compared={found.compared} agreed={found.agreed} latencies={found.latency.total}"
            )
        return found
