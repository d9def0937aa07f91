"""Estimators that stay valid however often they are looked at. Standard library only; no clock, no dice.

The device is the unit of analysis, because it is the unit of randomisation: ten thousand inferences of one device are
one observation. What cannot be estimated is None with a reason, never a number.
"""
