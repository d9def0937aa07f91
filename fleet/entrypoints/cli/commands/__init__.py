"""One module per group of commands; each has `register`, which adds its parsers, and functions that run them."""
