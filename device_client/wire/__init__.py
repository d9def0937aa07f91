"""The wire contract between devices and the server: names, topics, messages, bundles, deltas, buckets, sketches.

Pure: no clock, dice, log or I/O. Both sides import it, so both refuse the same bytes with the same named error. A
released format is never edited in place; a new version number stands beside the old one.
"""
