"""Files of a shard that its job's result does not have: what one worker hands to the one that seals the job."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from model.formats import media_type
from model.output.manifest import MANIFEST_FILE
from worker.storage.artifacts import PART


def part_file(folder: Path, name: str) -> Path:
    """Return the path of such a file in the folder of a shard; its folder exists."""
    path = folder / PART / name
    path.parent.mkdir(exist_ok=True)
    return path


def write_part_manifest(folder: Path) -> None:
    """Write the manifest of a shard: it names every file in the folder."""
    entries = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content, name = path.read_bytes(), path.relative_to(folder).as_posix()
        entries.append(
            {
                "name": name,
                "bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
                "media_type": media_type(name),
            }
        )
    (folder / MANIFEST_FILE).write_text(json.dumps({"files": entries}), encoding="utf-8")
