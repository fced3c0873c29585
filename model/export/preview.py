"""A preview picture of each cell: some frames side by side, rendered without a display."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from model.encoding.surface_files import frame_vertex_labels
from model.formats import FORMATS
from model.output.exporter import CellFiles, ExportFrame, WriteFrame
from model.output.manifest import WrittenCell
from model.rendering.render import PALETTES, Scene, encode_png, montage, render_frames

SIDE = 320  # pixels of a frame's picture
COLUMNS = 4  # frames in a row


@contextmanager
def open_writer(cell: CellFiles) -> Iterator[WriteFrame]:
    """Write ``preview.png``: the first frame, the last and some between, rendered when all have come."""
    exporter = cell.exporter
    shown = frames_shown(len(cell.times))
    scenes: list[Scene] = []

    def write(frame: ExportFrame) -> None:
        if frame.number in shown:
            caption = f"{exporter.minutes_at(frame.time):.1f} min"
            colours = frame.once(frame_vertex_labels, exporter.grid)
            scenes.append(Scene(surface=frame.surface, caption=caption, vertex_labels=colours))

    yield write
    palette = cell.palette if cell.palette in PALETTES else "neutral"
    pictures = render_frames(scenes, size=SIDE, palette=palette, micrometres=exporter.micrometres)
    picture = montage(pictures, columns=min(COLUMNS, len(pictures)))
    exporter.write_bytes(f"{cell.name}/preview.png", encode_png(picture))


def find_faults(_written: WrittenCell) -> Iterator[str]:
    """Compare a picture with nothing: its checksum says all."""
    yield from ()


def frames_shown(frames: int) -> set[int]:
    """Numbers of the frames shown, evenly spread over a sequence of ``frames``, ends included."""
    most = FORMATS["png"].frames_shown
    return {int(number) for number in np.linspace(0, frames - 1, min(frames, most)).round()}
