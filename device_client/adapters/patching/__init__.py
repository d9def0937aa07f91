"""Patches applied so that a killed process repeats one block and a power cut 8 MiB or a second, in bounded memory."""
