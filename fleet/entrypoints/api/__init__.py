"""REST for release pipelines and operators, version 1. Default deny; every error is a problem document."""
