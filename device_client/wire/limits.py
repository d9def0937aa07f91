"""Hard limits of the wire contract, in bytes unless the name says otherwise. Checked before anything is allocated."""

from typing import Final

MAX_MESSAGE_BYTES: Final = 131_072  # the broker's max_packet_size; also AWS IoT's limit
MAX_MANIFEST_BYTES: Final = 65_536
MAX_FILES_PER_BUNDLE: Final = 64
MAX_LABELS_PER_MESSAGE: Final = 500
MAX_MODELS_PER_DEVICE: Final = 64
MAX_TEXT_CHARS: Final = 512
MAX_ATTRIBUTES: Final = 100
MAX_METRICS_PER_WINDOW: Final = 32
MAX_RULES_PER_NOTICE: Final = 64
MAX_RANGES_PER_RULE: Final = 8
MAX_TICKETS: Final = 256
MAX_SKETCH_BYTES: Final = 4_096
MAX_INFERENCES_PER_WINDOW: Final = 10**9  # sums over a fleet and its lifetime stay within 63 bits
MAX_COUNT: Final = 2**53 - 1  # every JSON reader keeps integers up to here
