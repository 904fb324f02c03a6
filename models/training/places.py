"""What is written to disk is whole or not there: a process may end, or a disk be full, at any moment."""

from pathlib import Path


def put(path: Path, data: bytes) -> None:
    """Write a file beside its place, then move it in."""
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(data)
    part.replace(path)
