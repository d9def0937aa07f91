"""Modelfleet's device client: downloads, verifies, swaps, watches and rolls back models on one device.

The import package is `device_client`, the distribution `modelfleet-device`. `device_client.wire` is the contract with
the server and the only part that the server imports.
"""

__version__ = "0.1.0"
