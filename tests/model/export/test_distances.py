"""Promises of model.export.sdf_zarr and sdf_hdf5: what is read back are the cell's distances, in any reader."""

from __future__ import annotations

import json
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import shapes

from model.domain import Grid, frame_times
from model.encoding.zarr_arrays import decode_shard
from model.engine.marching_cubes import extract_surface
from model.engine.narrow_band import NarrowBand, clamp_distance
from model.engine.runs import bodies, runs_of
from model.engine.sparse import evaluate_dense
from model.engine.tracking import label_volume
from model.export.sdf_hdf5 import find_faults as find_hdf5_faults
from model.export.sdf_zarr import find_faults as find_zarr_faults
from model.output.exporter import CellFiles, Exporter, ExportFrame
from model.output.frame_writers import open_writers
from model.output.manifest import CellEntry, Manifest, SoftwareEntry, WrittenCell
from model.readers.meshes import open_field

GRID = Grid((72, 30, 44))
UNIT = np.float32(13.3)
NAMES = ("sdf", "sdf-hdf5")


def cell_at(t: float) -> shapes.Shape:
    return shapes.dividing_cell(t, radius=0.4)


def write(folder: Path, *, frames: int = 3, grid: Grid = GRID, names: tuple[str, ...] = NAMES) -> Exporter:
    exporter = Exporter(folder, grid=grid, micrometres=float(UNIT), minutes=90.0)
    times = [float(t) for t in frame_times(frames)]
    with open_writers(names, CellFiles(exporter=exporter, name="cell_0000", times=times)) as write_frame:
        for number, t in enumerate(times):
            field = evaluate_dense(cell_at(t), grid)
            labels = label_volume(field)
            band = NarrowBand(cell_at(t), grid, inside=lambda labels=labels: labels > 0)
            labelled = SimpleNamespace(runs=runs_of(labels))
            surface = extract_surface(field, grid)
            write_frame(ExportFrame(number=number, time=t, surface=surface, labelled=labelled, band=band))
    return exporter


def expected(t: float) -> np.ndarray:
    """Distances [x, y, z] in µm."""
    clamp = clamp_distance(GRID)
    field = evaluate_dense(cell_at(t), GRID)
    near = NarrowBand(cell_at(t), GRID, inside=lambda: field < 0).distances
    assert np.abs(near).max() <= clamp
    return near * UNIT


def test_both_formats_hold_the_same_distances_and_say_what_they_are(tmp_path: Path) -> None:
    exporter = write(tmp_path)
    root = tmp_path / "cell_0000" / "distances.zarr"
    metadata = json.loads((root / "zarr.json").read_text())
    stated = metadata["attributes"]["cytosynth"]
    assert metadata["shape"] == [3, 44, 30, 72]
    assert metadata["dimension_names"] == ["t", "z", "y", "x"]
    assert metadata["data_type"] == "float32"
    assert stated["clamp_um"] == metadata["fill_value"] == pytest.approx(2 * max(exporter.units.spacing))
    assert stated["minutes"] == [0.0, 45.0, 90.0]
    assert stated["first_sample_um"] == pytest.approx([-float(UNIT)] * 3)
    with h5py.File(tmp_path / "cell_0000" / "distances.h5") as file:
        stored = file["sdf_vid"]
        assert stored.shape == (44, 72, 30, 3)
        for key, value in stated.items():
            assert np.array_equal(stored.attrs[key], value)
        for number, t in enumerate(frame_times(3)):
            values = expected(float(t))
            shard = (root / "c" / str(number) / "0" / "0" / "0").read_bytes()
            read = decode_shard(shard, (44, 30, 72), kind="<f4", fill=metadata["fill_value"])
            assert np.array_equal(read.T, values)
            assert np.array_equal(stored[..., number].transpose(1, 2, 0), values)


def test_the_reader_of_the_authors_layout_reads_the_same_cell(tmp_path: Path) -> None:
    write(tmp_path)
    sequence = open_field(tmp_path / "cell_0000" / "distances.h5")
    assert sequence.grid_shape == GRID.shape
    assert sequence.frames == [0, 1, 2]
    for number, t in enumerate(frame_times(3)):
        (seen,) = sequence.observations(number)
        surface = extract_surface(evaluate_dense(cell_at(float(t)), GRID), GRID)
        assert np.array_equal(sequence._read(number), expected(float(t)))
        assert seen.is_closed
        assert seen.volume * float(np.prod(GRID.step)) == pytest.approx(surface.volume, rel=1e-3)


def test_the_same_distances_give_the_same_bytes_at_another_time(tmp_path: Path) -> None:
    once = write(tmp_path / "once").files
    time.sleep(1.1)  # a time stamp in the file would differ
    assert write(tmp_path / "again").files == once
    assert not list((tmp_path / "once").rglob(".*"))


def test_a_frame_of_another_volume_is_a_fault(tmp_path: Path) -> None:
    exporter = write(tmp_path)
    right = [
        {"frame": n, "volume_um3": extract_surface(evaluate_dense(cell_at(float(t)), GRID), GRID).volume * UNIT**3}
        for n, t in enumerate(frame_times(3))
    ]
    entry = CellEntry(index=0, latent=[], rotation=[1.0, 0, 0, 0], seed=1, tracks=[], frames=right)
    manifest = Manifest.model_construct(spec={}, units=exporter.units, software=SoftwareEntry(version="1"))
    names = [file.name.removeprefix("cell_0000/") for file in exporter.files]
    for find, mine in ((find_zarr_faults, "distances.zarr"), (find_hdf5_faults, "distances.h5")):
        files = tuple(name for name in names if name.startswith(mine))
        cell = WrittenCell(folder=tmp_path / "cell_0000", files=files, entry=entry, manifest=manifest)
        assert list(find(cell)) == []
        wrong = [*right[:2], {**right[2], "volume_um3": 1.01 * right[2]["volume_um3"]}]
        (fault,) = find(replace(cell, entry=entry.model_copy(update={"frames": wrong})))
        assert "frame 2 encloses" in fault
        (fault,) = find(replace(cell, entry=entry.model_copy(update={"frames": right[:2]})))
        assert "3 frames, the manifest says 2" in fault


@pytest.mark.parametrize("name", NAMES)
def test_memory_does_not_grow_with_frames(name: str, tmp_path: Path) -> None:
    grid = Grid((40, 40, 40))
    write(tmp_path / "first", frames=2, grid=grid, names=(name,))
    peaks = []
    for frames in (4, 40):
        tracemalloc.start()
        write(tmp_path / str(frames), frames=frames, grid=grid, names=(name,))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0] + 100_000


def test_a_frame_without_a_distance_function_is_refused(tmp_path: Path) -> None:
    field = evaluate_dense(cell_at(0.0), GRID)
    frame = ExportFrame(
        number=0, time=0.0, surface=extract_surface(field, GRID), labelled=SimpleNamespace(runs=bodies(field))
    )
    with pytest.raises(ValueError, match="no signed distance function"):
        _ = frame.distance_volume
