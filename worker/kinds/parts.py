"""Files of a shard that its job's result does not have: what one worker hands to the one that seals the job."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from model.output.manifest import MANIFEST_FILE
from worker.storage.artifacts import PART


def part_file(folder: Path, name: str) -> Path:
    """Return the path of such a file in the folder of a shard; its folder exists."""
    path = folder / PART / name
    path.parent.mkdir(exist_ok=True)
    return path


def write_part_manifest(folder: Path) -> None:
    """Name such files, and none else, in the manifest of a shard."""
    entries = []
    for path in sorted((folder / PART).iterdir()):
        content = path.read_bytes()
        entries.append(
            {
                "name": path.relative_to(folder).as_posix(),
                "bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
        )
    (folder / MANIFEST_FILE).write_text(json.dumps({"files": entries}), encoding="utf-8")
