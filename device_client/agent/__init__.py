"""The agent: performs what `core.machine` decides, through ports. It imports no adapter and no network library."""
