"""The way in and out by MQTT: ingest, director, publisher, and the worker, each a process of its own."""
