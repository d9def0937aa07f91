"""What a certificate's answer says beside the certificate: headers, because EST (RFC 7030) leaves no room in the body."""

from typing import Final

DEVICE_ID_HEADER: Final = "X-Modelfleet-Device-Id"
HARDWARE_CLASS_HEADER: Final = "X-Modelfleet-Hardware-Class"
