"""`python -m device_client` is `modelfleet-device`."""

import sys

from device_client.cli import main

sys.exit(main())
