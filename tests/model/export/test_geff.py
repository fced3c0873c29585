"""Promises of model.export.geff; the format's own library reads it in test_other_programs."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytest
import shapes

from model.domain import Grid
from model.engine.marching_cubes import extract_surface
from model.engine.runs import Runs, runs_of
from model.engine.sparse import evaluate_dense
from model.engine.tracking import Track, label_volume
from model.export.geff import NAME, edges_of
from model.output.exporter import CellFiles, Exporter, ExportFrame
from model.output.frame_writers import open_writers
from model.output.verify import verify_result

GRID = Grid((40, 44, 36))
ONE = evaluate_dense(shapes.sphere(0.6), GRID)
TWO = evaluate_dense(shapes.dividing_cell(0.8, radius=0.4), GRID)
TRACKS = (Track(1, 0, 0, 0), Track(2, 1, 2, 1), Track(3, 1, 2, 1))


@dataclass(frozen=True)
class Labelled:
    runs: Runs


def lineage(folder: Path, *, frames: int = 3) -> Path:
    """Write a ball that divides after the first frame, as graph and as table, and the manifest."""
    exporter = Exporter(folder, grid=GRID, micrometres=10.0, minutes=6.0)
    tracks = TRACKS if frames > 1 else TRACKS[:1]
    times = [-1.0, 0.0, 1.0][:frames]
    rows = []
    with open_writers(
        ["geff", "csv"], CellFiles(exporter=exporter, name="cell_0000", times=times, tracks=lambda: tracks)
    ) as write:
        for number, time in enumerate(times):
            field = TWO if number else ONE
            labels = label_volume(field)
            labels = np.where(labels > 0, labels + 1, 0).astype(np.uint16) if number else labels
            surface = extract_surface(field, GRID)
            write(ExportFrame(number=number, time=time, surface=surface, labelled=Labelled(runs_of(labels))))
            found = [int(label) for label in np.unique(labels) if label]
            rows.append({"frame": number, "labels": found, "volume_um3": surface.volume * 1e3})
    cell = {
        "index": 0, "latent": [], "rotation": [1.0, 0, 0, 0], "seed": 1, "frames": rows,
        "tracks": [asdict(track) for track in tracks],
    }  # fmt: skip
    exporter.write_manifest(spec={}, model_id="a", model_sha256="0" * 64, version="1", device_class="cpu", cells=[cell])
    return folder / "cell_0000" / NAME


def column(graph: Path, name: str) -> list[float]:
    """Values of an array, by what its metadata says."""
    facts = json.loads((graph / name / "zarr.json").read_bytes())
    chunk = graph / name / "c" / "/".join("0" * len(facts["shape"]))
    return np.frombuffer(chunk.read_bytes(), facts["data_type"]).reshape(facts["shape"]).tolist()


def test_nodes_are_the_rows_of_the_table(tmp_path: Path) -> None:
    graph = lineage(tmp_path)
    with (tmp_path / "cell_0000/measurements.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = {
        "t": "frame", "label": "label", "minutes": "minutes", "volume": "volume_um3",
        "z": "z_um", "y": "y_um", "x": "x_um",
    }  # fmt: skip
    for mine, theirs in names.items():
        assert column(graph, f"nodes/props/{mine}/values") == [float(row[theirs]) for row in rows]
    assert column(graph, "nodes/ids") == [0, 1, 2, 3, 4]
    assert column(graph, "nodes/props/lineage/values") == [1] * 5
    assert column(graph, "edges/ids") == [[0, 1], [0, 2], [1, 3], [2, 4]]
    assert list(verify_result(tmp_path)) == []


def test_two_runs_give_the_same_bytes(tmp_path: Path) -> None:
    once, again = lineage(tmp_path / "once"), lineage(tmp_path / "again")
    files = sorted(path.relative_to(once) for path in once.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert all((once / path).read_bytes() == (again / path).read_bytes() for path in files)


def test_a_lineage_without_edges_has_none(tmp_path: Path) -> None:
    graph = lineage(tmp_path, frames=1)
    assert json.loads((graph / "edges/ids/zarr.json").read_bytes())["shape"] == [0, 2]
    assert not (graph / "edges/ids/c").exists()
    assert list(verify_result(tmp_path)) == []


def test_edges_lead_forward_through_two_generations() -> None:
    nodes = [(0, 1), (1, 1), (2, 2), (2, 3), (3, 3), (3, 4), (3, 5)]
    tracks = [Track(1, 0, 1, 0), Track(2, 2, 2, 1), Track(3, 2, 3, 1), Track(4, 3, 3, 2), Track(5, 3, 3, 2)]
    assert edges_of(nodes, tracks) == [(0, 1), (1, 2), (1, 3), (2, 5), (2, 6), (3, 4)]


@pytest.mark.parametrize(
    ("member", "value", "fault"),
    [
        ("frames", [{"frame": n, "labels": [1], "volume_um3": 1.0} for n in range(3)], "nodes"),
        ("tracks", [asdict(track) for track in TRACKS[:2]], "edges"),
    ],
)
def test_another_lineage_than_the_manifests_is_noticed(tmp_path: Path, member: str, value: object, fault: str) -> None:
    lineage(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_bytes())
    manifest["cells"][0][member] = value
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert [line for line in verify_result(tmp_path) if NAME in line and fault in line]
