"""Who is in the demo's fleet, and the seeds that put them where each phase needs them.

Sixteen devices in three hardware classes; `edge-tiny` takes only the int8 variant. A rollout's buckets follow from its
seed and the device ids alone (`device_client.wire.bucketing`), so a seed decides which devices a phase treats. A test
holds these constants against that function: 4 treated and 8 control at 25%, 8 and 8 at 50%.
"""

from dataclasses import dataclass
from typing import Final

MODEL: Final = "vision.digits"
NAMESPACE: Final = "vision"


@dataclass(frozen=True)
class DemoDevice:
    """One device to enrol. An empty `precisions` takes any variant."""

    id: str
    hardware_class: str
    precisions: tuple[str, ...] = ()
    models: tuple[str, ...] = (MODEL,)


CLASSES: Final = {"edge-std": ("fp32",), "edge-max": (), "edge-tiny": ("int8",)}
_LAYOUT: Final = ("edge-std",) * 7 + ("edge-max",) * 5 + ("edge-tiny",) * 4

DEVICES: Final = tuple(
    DemoDevice(f"cam-{number:02d}", hardware_class, CLASSES[hardware_class])
    for number, hardware_class in enumerate(_LAYOUT, start=1)
)

SEED_INSTALL: Final = "digits-first"
SEED_BETTER: Final = "digits-19"  # 25% treats cam-01, cam-03 (edge-std), cam-08 (edge-max), cam-16 (edge-tiny)
SEED_WORSE: Final = "digits-76"  # 25% treats cam-06, cam-07 (edge-std), cam-12 (edge-max), cam-14 (edge-tiny)
SEED_TAMPERED: Final = "digits-altered"

KILLED: Final = "cam-01"
"""The device that is killed in mid-download: in the first phase of v2, and of a class that takes the larger delta."""
