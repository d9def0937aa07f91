"""Devices, groups and what devices last reported of themselves."""
