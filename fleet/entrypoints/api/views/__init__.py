"""One module a subject. A method parses, makes one call of a service or selector, and renders."""
