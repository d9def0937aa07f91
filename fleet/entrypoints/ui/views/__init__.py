"""One module a section of the navigation. Parse, ask one thing or a few, render."""
