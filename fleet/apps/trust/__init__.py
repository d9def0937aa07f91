"""Signed metadata, director bundles, enrolment claims, device certificates and API tokens: who may say what."""
