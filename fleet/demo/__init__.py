"""The story of the README, told on real data with what any user has: the command line, HTTP and the device package.

Nothing here is imported by the product, and nothing here imports the control plane.
"""
