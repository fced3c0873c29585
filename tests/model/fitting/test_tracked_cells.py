"""All tracked cells of a recording, and their way back into one label volume: places, labels, lineage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from tiny_model import SIDE

from model.errors import DatasetError
from model.fitting.tracked_cells import TrackedRecording, read_tracked, write_recording
from model.living_cell import LivingCell
from model.network.checkpoint import Checkpoint

STEP = 20.0 / (SIDE - 1)  # µm
NOWHERE = np.zeros(3)


def recording() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Labels (t, z, y, x): 1 moves along x; 2 divides after the second frame into 3 and 4."""
    z, y, x = np.meshgrid(np.arange(SIDE), np.arange(2 * SIDE), np.arange(2 * SIDE), indexing="ij")

    def ball(label: int, frame: int, centre: tuple[float, float, float], radius: float) -> None:
        inside = (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 < radius**2
        volume[frame][inside] = label

    volume = np.zeros((4, SIDE, 2 * SIDE, 2 * SIDE), dtype=np.uint8)
    for frame in range(4):
        ball(1, frame, (11.5, 12.0, 12.0 + 2 * frame), 6.0)
        if frame < 2:
            ball(2, frame, (11.5, 34.0, 24.0), 7.0)
        else:
            ball(3, frame, (11.5, 34.0, 18.0), 5.5)
            ball(4, frame, (11.5, 34.0, 30.0), 5.5)
    return volume


def read(path: Path, volume: np.ndarray[Any, Any], checkpoint: Checkpoint) -> TrackedRecording:
    tifffile.imwrite(
        path, volume, imagej=True, resolution=(1.0 / STEP, 1.0 / STEP),
        metadata={"axes": "TZYX", "spacing": STEP, "unit": "um", "finterval": 60.0},
    )  # fmt: skip
    return read_tracked([path], checkpoint.card, voxel=None)


def exactly(found: TrackedRecording, checkpoint: Checkpoint) -> list[tuple[LivingCell, Any]]:
    """Cells that are the given shapes in the given frames."""
    code = np.array(checkpoint.prior.centres[0], dtype=np.float32)
    upright = [1.0, 0.0, 0.0, 0.0]
    return [
        (LivingCell(checkpoint, code, upright, kept=tuple((one.time, one.shape) for one in cell.target)), NOWHERE)
        for cell in found.cells
    ]


def test_given_cells_come_back_where_they_were_with_their_labels_and_lineage(
    tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    volume = recording()
    found = read(tmp_path / "four.tif", volume, tiny_checkpoint)
    assert [cell.labels for cell in found.cells] == [[1], [2], [3], [4]]
    assert [cell.sequence.frames for cell in found.cells] == [[0, 1, 2, 3], [0, 1], [2, 3], [2, 3]]
    told: list[int] = []
    for refine in (1, 2):
        folder = tmp_path / f"out{refine}"
        write_recording(
            found, exactly(found, tiny_checkpoint), folder, frames=4, refine=refine,
            micrometres=tiny_checkpoint.card.micrometres, after_frame=told.append,
        )  # fmt: skip
        with tifffile.TiffFile(folder / "labels.tif") as file:
            written = file.asarray()
            assert file.imagej_metadata is not None
            assert file.imagej_metadata["spacing"] == pytest.approx(STEP / refine)
            assert file.imagej_metadata["finterval"] == pytest.approx(60.0)
        assert written.shape == (4, *((side - 1) * refine + 1 for side in volume.shape[1:]))
        coarse = written[:, ::refine, ::refine, ::refine]
        for label in (1, 2, 3, 4):
            mine, theirs = coarse == label, volume == label
            assert 2.0 * (mine & theirs).sum() / (mine.sum() + theirs.sum()) > 0.97, (label, refine)
            assert [bool(frame.any()) for frame in mine] == [bool(frame.any()) for frame in theirs]
        assert (folder / "man_track.txt").read_text() == "1 0 3 0\n2 0 1 0\n3 2 3 2\n4 2 3 2\n"
    assert told == [1, 2, 3, 4] * 2


def test_between_given_frames_a_cell_lies_between_its_places(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    found = read(tmp_path / "four.tif", recording(), tiny_checkpoint)
    code = np.array(tiny_checkpoint.prior.centres[0], dtype=np.float32)
    fitted = [(LivingCell(tiny_checkpoint, code, [1.0, 0.0, 0.0, 0.0]), NOWHERE)] * 4
    write_recording(
        found, fitted, tmp_path / "out", frames=7, refine=1, micrometres=10.0, after_frame=lambda _done: None
    )
    written = tifffile.imread(tmp_path / "out" / "labels.tif")
    places = [np.argwhere(frame == 1)[:, 2].mean() for frame in written]
    assert places == pytest.approx([12.0 + frame for frame in range(7)], abs=0.5)
    rows = [line.split() for line in (tmp_path / "out" / "man_track.txt").read_text().splitlines()]
    assert rows == [["1", "0", "6", "0"], ["2", "0", "2", "0"], ["3", "3", "6", "2"], ["4", "3", "6", "2"]]


def test_a_cell_that_the_border_cuts_is_left_out_and_none_at_all_is_an_error(
    tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    volume = recording()
    cut = np.roll(volume, -8, axis=2)
    found = read(tmp_path / "cut.tif", cut, tiny_checkpoint)
    assert 1 not in [label for cell in found.cells for label in cell.labels]
    assert any("border" in warning for warning in found.warnings)
    with pytest.raises(DatasetError, match="border"):
        read(tmp_path / "none.tif", np.where(cut == 1, cut, 0), tiny_checkpoint)
    with pytest.raises(DatasetError, match="lower refine"):
        write_recording(
            found, exactly(found, tiny_checkpoint), tmp_path / "out", frames=2, refine=64, micrometres=10.0,
            after_frame=lambda _done: None,
        )  # fmt: skip
