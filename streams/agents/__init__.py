"""The four stages: each decodes, calls `models`, and returns what is to be written and sent."""
