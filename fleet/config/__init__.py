"""Settings: the environment parsed once into one typed object, and what Django makes of it."""
