"""What a device is: its identity, what it may run, and what it was found to be capable of."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from device_client.wire.bundles import Contract
from device_client.wire.messages import Capabilities
from device_client.wire.names import ANY_HARDWARE


@dataclass(frozen=True)
class Profile:
    """One device. `precisions` empty means any; `bandwidth_bytes_per_s` zero means unlimited."""

    device_id: str
    models: tuple[str, ...]
    hardware_class: str = ANY_HARDWARE
    precisions: tuple[str, ...] = ()
    bandwidth_bytes_per_s: int = 0
    attributes: Mapping[str, str] = field(default_factory=dict)
    contracts: Mapping[str, Contract] = field(default_factory=dict)
    capabilities: Capabilities = field(default_factory=Capabilities)
