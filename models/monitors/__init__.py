"""Monitors: one concept a file, each a pure fold of labels and decisions into findings."""
