"""Promises of model.formats: each row of the table is written, described, priced and read back, whatever it holds."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import shapes
from workbench import ROOT

from model.domain import Grid, frame_times
from model.engine.marching_cubes import extract_surface
from model.engine.narrow_band import NarrowBand
from model.engine.runs import runs_of
from model.engine.sparse import evaluate_dense
from model.engine.tracking import Track, label_volume
from model.formats import FORMATS, MEDIA_TYPES, OTHER, Format, describe_formats, media_type
from model.output.exporter import CellFiles, Exporter, ExportFrame
from model.output.frame_writers import open_writers
from model.output.verify import verify_result
from model.spec import GenerationSpec

GRID = Grid((28, 26, 30))
FIELD = evaluate_dense(shapes.sphere(0.7), GRID)
SURFACE = extract_surface(FIELD, GRID)
LABELS = label_volume(FIELD)
BAND = NarrowBand(shapes.sphere(0.7), GRID, inside=lambda: LABELS > 0)
FRAMES = 3
UNIT = 10.0  # µm
ROWS = pytest.mark.parametrize("row", FORMATS.values(), ids=list(FORMATS))


def written(folder: Path, *names: str) -> list[str]:
    """Write a cell of three frames in some formats, and its manifest; the names of the files."""
    exporter = Exporter(folder, grid=GRID, micrometres=UNIT, minutes=5.0)
    times = [float(time) for time in frame_times(FRAMES)]
    tracks = (Track(1, 0, FRAMES - 1, 0),)
    cell_files = CellFiles(exporter=exporter, name="cell_0000", times=times, tracks=lambda: tracks)
    with open_writers(names, cell_files) as write:
        for number, time in enumerate(times):
            labelled = SimpleNamespace(runs=runs_of(LABELS))
            write(ExportFrame(number=number, time=time, surface=SURFACE, labelled=labelled, band=BAND))
    frames = [
        {"frame": number, "minutes": exporter.minutes_at(time), "labels": [1], "volume_um3": SURFACE.volume * UNIT**3}
        for number, time in enumerate(times)
    ]
    cell = {
        "index": 0, "latent": [], "rotation": [1.0, 0, 0, 0], "seed": 1, "frames": frames,
        "tracks": [asdict(track) for track in tracks],
    }  # fmt: skip
    exporter.write_manifest(spec={}, model_id="a", model_sha256="0" * 64, version="1", device_class="cpu", cells=[cell])
    return [entry.name for entry in exporter.files]


@ROWS
def test_a_format_is_written_as_its_row_says_and_verified(row: Format, tmp_path: Path) -> None:
    names = written(tmp_path, *row.needs, row.name)
    mine = [name for name in names if row.writes(name.removeprefix("cell_0000/"))]
    others = [name for other in row.needs for name in names if FORMATS[other].writes(name.removeprefix("cell_0000/"))]
    assert mine
    assert sorted(mine + others) == sorted(names)
    assert row.suffix in {Path(name).suffix for name in mine}
    types = {row.suffix: row.media_type, **row.media_types}
    assert {media_type(name) for name in mine} <= {*types.values(), OTHER}
    assert list(verify_result(tmp_path)) == []
    least = row.least_files(cells=1, frames=FRAMES)
    # The pyramid and the graph of a lineage have more files the larger they are.
    assert least <= len(mine) if row.name in ("ome-zarr", "geff") else least == len(mine)


@ROWS
def test_a_damaged_file_of_any_format_is_noticed(row: Format, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    names = written(tmp_path / "a", *row.needs, row.name)
    name = next(name for name in names if row.writes(name.removeprefix("cell_0000/")))
    path = tmp_path / "a" / name
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert [fault.split(":")[0] for fault in verify_result(tmp_path / "a")] == [name]


@ROWS
def test_a_format_can_be_asked_for_and_has_a_price(row: Format) -> None:
    spec = GenerationSpec.model_validate({"model": "a", "formats": [*row.needs, row.name]})
    others = [name for name in FORMATS if name != row.name and row.name not in FORMATS[name].needs]
    without = GenerationSpec.model_validate({"model": "a", "formats": others})
    both = GenerationSpec.model_validate({"model": "a", "formats": [*others, row.name]})
    assert both.cost().bytes > without.cost().bytes
    assert spec.cost().bytes > 4096
    schema = GenerationSpec.model_json_schema()["properties"]["formats"]
    assert schema["items"]["enum"] == list(FORMATS)
    assert schema["maxItems"] == len(FORMATS)
    assert schema["description"] == describe_formats()
    assert row.name in describe_formats()


def test_formats_together_give_the_files_of_each_alone(tmp_path: Path) -> None:
    together = written(tmp_path / "all", *FORMATS)
    for name in FORMATS:
        row = FORMATS[name]
        for file in written(tmp_path / name, *row.needs, name):
            assert (tmp_path / name / file).read_bytes() == (tmp_path / "all" / file).read_bytes()
            if row.writes(file.removeprefix("cell_0000/")):
                together.remove(file)
    assert together == []


@pytest.mark.slow
def test_memory_of_a_job_in_all_formats_does_not_grow_with_frames() -> None:
    peaks = {}
    for frames in (12, 48):
        done = subprocess.run(
            [sys.executable, "-c", ALL_FORMATS, str(frames)], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        peaks[frames] = float(done.stdout)
    # a frame of 64³ kept in any format, as labels, surface or distances, would add 20 MiB and more
    assert peaks[48] < peaks[12] + 18.0


ALL_FORMATS = """
import sys, tempfile
from pathlib import Path
import torch
from benchmarks.engine.job import resident_mib
from model.card import SHIPPED_MODELS
from model.formats import FORMATS
from model.network.checkpoint import load_checkpoint
from model.spec import GenerationSpec
from model.synthesis import synthesize

torch.set_num_threads(1)
spec = GenerationSpec(model="celegans", seed=7, grid=64, frames=int(sys.argv[1]), formats=list(FORMATS))
with tempfile.TemporaryDirectory() as folder:
    synthesize(spec.completed(), load_checkpoint(SHIPPED_MODELS / "celegans"), Path(folder))
print(resident_mib())
"""


def test_the_documents_say_which_program_opened_each_format_with_its_version() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "formats.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:4] for line in page.partition("## Read by other programs")[2].splitlines() if "|" in line]
    opened = {name for formats, program, found in rows[2:] for name in re.findall(r"`([a-z0-9-]+)`", formats)}
    assert opened == set(FORMATS)
    assert all(re.search(r"\d+\.\d+", program) and found.strip() for _, program, found in rows[2:])


def test_rows_do_not_share_names_or_modules() -> None:
    rows = FORMATS.values()
    assert len({row.name for row in rows}) == len({row.module for row in rows})
    assert all(row.suffix == row.suffix.lower() and row.suffix in MEDIA_TYPES for row in rows)
    modules = [importlib.import_module(row.module) for row in rows]
    assert all(callable(module.open_writer) and callable(module.find_faults) for module in modules)


def test_an_ending_has_one_media_type() -> None:
    kinds = [item for row in FORMATS.values() for item in ((row.suffix, row.media_type), *row.media_types.items())]
    assert len(dict(kinds)) == len(set(kinds))


def test_the_table_is_light() -> None:
    code = "import model.formats, sys; assert not {'numpy', 'torch', 'pydantic'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_expected_sizes_follow_the_grid_and_the_number_of_cells() -> None:
    spec = {"model": "a", "count": 2, "frames": 10, "grid": [64, 48, 80]}
    sizes = {
        name: GenerationSpec.model_validate({**spec, "formats": [name]}).cost().bytes
        for name in FORMATS
        if not FORMATS[name].needs
    }
    face = np.cbrt(64 * 48 * 80) ** 2
    assert sizes["stl"] == int(75.0 * face * 20) + 4096
    assert sizes["obj"] == int(55.0 * face * 20) + 4096
    assert sizes["ply"] == int(32.0 * face * 20) + 4096
    assert sizes["tiff"] == 64 * 48 * 80 * 20 // 40 + 4096
    assert sizes["ctc"] == 64 * 48 * 80 * 20 * 4 + 4096
    assert sizes["png"] == 804096


def test_a_format_that_needs_another_is_refused_without_it() -> None:
    with pytest.raises(ValueError, match="stl-series needs stl"):
        GenerationSpec.model_validate({"model": "a", "formats": ["stl-series", "obj"]})
    assert GenerationSpec.model_validate({"model": "a", "formats": ["stl-series", "stl"]})
