"""Measurements of each cell in each frame as a table: ``measurements.csv``, one row a label and frame.

Volumes, areas and centroids are those of the surface, so that they do not depend on voxels.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager

from model.encoding.measurements import digits, measure
from model.encoding.surface_files import volumes_differ
from model.output.exporter import CellFiles, ExportFrame, WriteFrame
from model.output.manifest import WrittenCell

NAME = "measurements.csv"
COLUMNS = (
    "frame", "minutes", "label", "parent", "volume_um3", "area_um2", "sphericity", "x_um", "y_um", "z_um",
)  # fmt: skip


@contextmanager
def open_writer(cell: CellFiles) -> Iterator[WriteFrame]:
    """Write the table when all frames have come; a row of about 80 bytes a label and frame is kept until then."""
    exporter = cell.exporter
    rows: list[list[object]] = []

    def write(frame: ExportFrame) -> None:
        for one in frame.once(measure, exporter):
            rows.append([
                one.frame, digits(one.minutes), one.label, 0, digits(one.volume_um3), digits(one.area_um2),
                digits(one.sphericity), *(digits(value) for value in one.centroid_um),
            ])  # fmt: skip

    yield write
    parents = {track.label: track.parent for track in cell.tracks()}
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for row in rows:
        row[3] = parents.get(int(str(row[2])), 0)
        table.writerow(row)
    exporter.write_bytes(f"{cell.name}/{NAME}", text.getvalue().encode("ascii"))


def find_faults(written: WrittenCell) -> Iterator[str]:
    """Compare labels, and the sum of the volumes of each frame, with the manifest."""
    for name in written.files:
        with (written.folder / name).open(encoding="ascii", newline="") as file:
            rows = list(csv.DictReader(file))
        for frame in written.entry.frames:
            mine = [row for row in rows if int(row["frame"]) == frame["frame"]]
            labels = sorted(int(row["label"]) for row in mine)
            volume = sum(float(row["volume_um3"]) for row in mine)
            if labels != frame["labels"]:
                yield f"{name}: frame {frame['frame']} has labels {labels}, the manifest says {frame['labels']}"
            elif volumes_differ(volume, frame["volume_um3"]):
                yield f"{name}: frame {frame['frame']} has {volume:.1f} µm³, not {frame['volume_um3']:.1f}"
