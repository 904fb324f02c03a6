"""Doctests are looked for in every module; this one needs atheris."""

collect_ignore = ["guided.py"]
