"""Experiments: arms compared under randomisation, their looks and their recorded decisions."""
