"""Leased work rows: claimed, run, retried and fenced."""
