"""Damage as a disk does it: the bytes of a stored file change, its name and the links to it stay."""

from __future__ import annotations

from pathlib import Path


def flip(path: Path, *, at: int = 0) -> None:
    """Alter one byte of a file; its size stays."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def cut(path: Path) -> None:
    """Remove the last byte of a file."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)
