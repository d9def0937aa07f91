"""Idempotent windows and labels, and the totals that gates and pages read."""
