"""The core of demur: it decides. No Kafka, clock, environment, files or sockets in decision code.

`streams` imports `models`, never the other way; an import contract in `pyproject.toml` keeps it so.
"""
