"""Namespaces, models, versions, variants, aliases, blobs and deltas: what can be released. Knows nothing of devices."""
