"""The Cell Tracking Challenge's layout: label volumes a frame, and the table of tracks.

Each cell is a data set of one sequence: ``ctc/01_GT/TRA`` holds the tracking truth, ``ctc/01_GT/SEG`` the segmentation
truth. Both show every voxel of every frame.

Promises: each file is written once, uncompressed, one plane a page, as the challenge's own files; names have three
digits, four from 1,000 frames on. A label that is in the table is in every frame from its first to its last.
Does not promise: images; the folder ``01`` is not written.

References
----------
Maška and others, Nature Methods 2023, doi:10.1038/s41592-023-01879-y; celltrackingchallenge.net, naming and file
content conventions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tifffile

from model.encoding.plane_tiff import frame_file
from model.engine.tracking import Track
from model.errors import ExportError
from model.output.exporter import CellFiles, ExportFrame, WriteFrame
from model.output.manifest import WrittenCell

TRA, SEG = "ctc/01_GT/TRA", "ctc/01_GT/SEG"
TABLE = f"{TRA}/man_track.txt"


@contextmanager
def open_writer(cell: CellFiles) -> Iterator[WriteFrame]:
    """Write both truths a frame, and the table of tracks last.

    Raises
    ------
    ExportError
        If a file cannot be written, or a track has a frame without its label.
    """
    digits = 3 if len(cell.times) <= 1000 else 4
    dx, dy, dz = cell.exporter.units.spacing
    seen: list[set[int]] = []

    def write(frame: ExportFrame) -> None:
        content = frame.once(frame_file, (dz, dy, dx))
        for folder, name in ((TRA, "man_track"), (SEG, "man_seg")):
            cell.exporter.write_bytes(f"{cell.name}/{folder}/{name}{frame.number:0{digits}d}.tif", content)
        seen.append(set(frame.labels_present))

    yield write
    tracks = [track for track in cell.tracks() if track.first_frame < len(seen)]
    for track in tracks:
        for number in range(track.first_frame, track.last_frame + 1):
            if track.label not in seen[number]:
                raise ExportError(
                    f"frame {number} has no voxel of cell {track.label}, which its track needs; ask for a finer grid"
                )
    cell.exporter.write_bytes(f"{cell.name}/{TABLE}", encode_tracks(tracks))


def encode_tracks(tracks: Sequence[Track]) -> bytes:
    """Encode tracks as ``man_track.txt``: a line each with label, first frame, last frame, parent (0: none)."""
    lines = (f"{track.label} {track.first_frame} {track.last_frame} {track.parent}\n" for track in tracks)
    return "".join(lines).encode("ascii")


def find_faults(written: WrittenCell) -> Iterator[str]:
    """Read the volumes back with tifffile and compare labels and tracks with the manifest."""
    for name in written.files:
        if name == TABLE:
            yield from _table_faults(written)
            continue
        number = int(Path(name).stem.removeprefix("man_track").removeprefix("man_seg"))
        volume = tifffile.imread(written.folder / name)
        found = [int(label) for label in np.unique(volume) if label]
        expected = written.entry.frames[number]["labels"]
        if volume.dtype != np.uint16 or volume.ndim != 3:
            yield f"{name}: {volume.ndim} axes of {volume.dtype}, not 3 of uint16"
        elif found != expected:
            yield f"{name}: holds labels {found}, the manifest says {expected}"


def _table_faults(written: WrittenCell) -> Iterator[str]:
    text = (written.folder / TABLE).read_text(encoding="ascii")
    found = [[int(number) for number in line.split()] for line in text.splitlines()]
    tracks = written.entry.tracks
    if found != [[track.label, track.first_frame, track.last_frame, track.parent] for track in tracks]:
        yield f"{TABLE}: not the tracks of the manifest"
