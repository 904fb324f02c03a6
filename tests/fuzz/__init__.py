"""Hostile input for everything that reads: `make fuzz` runs a million, the tests a few thousand."""
