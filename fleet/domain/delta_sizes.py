"""How large files may be for which codec. Apart from the plan, because whoever makes patches needs nothing else of it."""

from typing import Final

MIB: Final = 1 << 20
# Where trying bsdiff4 beside another codec costs little.
SMALL_BYTES: Final = 16 * MIB
# 17 times as much memory is what bsdiff's suffix sort takes.
BSDIFF4_MAX_BYTES: Final = 32 * MIB
