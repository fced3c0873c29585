"""The STL files of a cell as a series with times, as ParaView and VTK read it: ``frames.stl.series``.

References
----------
ParaView, release notes of version 5.5: file series in JSON, ``file-series-version`` 1.0.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from model.output.exporter import CellFiles, ExportFrame, WriteFrame
from model.output.manifest import WrittenCell

NAME = "frames.stl.series"


@contextmanager
def open_writer(cell: CellFiles) -> Iterator[WriteFrame]:
    """Write the list of frames, each with its time in minutes, when all have come."""
    files: list[dict[str, object]] = []

    def write(frame: ExportFrame) -> None:
        minutes = round(cell.exporter.minutes_at(frame.time), 6)
        files.append({"name": f"frame_{frame.number:04d}.stl", "time": minutes})

    yield write
    document = {"file-series-version": "1.0", "files": files}
    cell.exporter.write_bytes(f"{cell.name}/{NAME}", (json.dumps(document, indent=2) + "\n").encode("ascii"))


def find_faults(written: WrittenCell) -> Iterator[str]:
    """Compare the list with the frames of the manifest."""
    for name in written.files:
        document = json.loads((written.folder / name).read_text(encoding="ascii"))
        listed = [(file["name"], file["time"]) for file in document["files"]]
        if listed != [(f"frame_{row['frame']:04d}.stl", row["minutes"]) for row in written.entry.frames]:
            yield f"{name}: not the frames of the manifest"
        for missing in (file for file, _ in listed if not (written.folder / file).is_file()):
            yield f"{name}: names {missing}, which is not there"
