"""`modelfleet`: the command of release pipelines and operators. It speaks HTTP and signs; it knows nothing of Django."""
