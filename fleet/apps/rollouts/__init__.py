"""Rollouts, their phases and their recorded decisions."""
