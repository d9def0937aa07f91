"""Composition roots: the only importers of adapters."""
