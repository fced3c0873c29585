"""Promises of model.output.exporter, model.export.imagej_tiff and model.output.manifest: what is read back equals what
was written."""

from __future__ import annotations

import hashlib
import io
import json
import math
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import shapes
import stl
import tifffile
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from model.domain import Grid, frame_times
from model.engine.marching_cubes import Surface, extract_surface
from model.engine.runs import Labels, runs_of
from model.engine.sparse import evaluate_dense
from model.engine.tracking import label_volume
from model.errors import ExportError
from model.export.imagej_tiff import Hyperstack, HyperstackWriter
from model.export.obj import encode_obj
from model.export.ply import encode_ply
from model.export.quality_report import measure
from model.export.stl import encode_stl
from model.output.exporter import CellFiles, Exporter, ExportFrame
from model.output.frame_writers import open_writers
from model.output.manifest import FileEntry, Manifest
from model.spec import GenerationSpec

GRID = Grid((40, 44, 36))
FIELD = evaluate_dense(shapes.dividing_cell(0.8, radius=0.4), GRID)
SURFACE = extract_surface(FIELD, GRID)
LABELS = label_volume(FIELD)
MICROMETRES, MINUTES = 15.5, 87.0
ENCODERS = {"stl": encode_stl, "obj": encode_obj, "ply": encode_ply}
MESHES = ["stl", "obj", "ply"]


@pytest.fixture
def exporter(tmp_path: Path) -> Exporter:
    return Exporter(tmp_path, grid=GRID, micrometres=MICROMETRES, minutes=MINUTES)


def write_surface(exporter: Exporter, mesh_format: str) -> FileEntry:
    """Write one frame's surface in one format; the file's entry."""
    before = exporter.files
    with open_writers([mesh_format], CellFiles(exporter=exporter, name="cell_0000", times=[0.0])) as write:
        write(ExportFrame(number=0, time=0.0, surface=SURFACE, labelled=SimpleNamespace(runs=runs_of(LABELS))))
    (entry,) = set(exporter.files) - set(before)
    return entry


@contextmanager
def label_volumes(exporter: Exporter, name: str, *, times: list[float]) -> Iterator[Callable[[Labels], None]]:
    """Open a cell's label volumes; takes one frame's labels [x, y, z] after another."""
    numbers = count()
    with open_writers(["tiff"], CellFiles(exporter=exporter, name=name, times=times)) as write:
        yield lambda labels: write(
            ExportFrame(number=next(numbers), time=0.0, surface=SURFACE, labelled=SimpleNamespace(runs=runs_of(labels)))
        )


def reopened(content: bytes, file_type: str, **options: Any) -> trimesh.Trimesh:
    mesh = trimesh.load(io.BytesIO(content), file_type=file_type, **options)
    assert isinstance(mesh, trimesh.Trimesh)
    return mesh


# ----------------------------------------------------------------------------------------------------------- meshes


@pytest.mark.parametrize("mesh_format", MESHES)
def test_a_reopened_mesh_is_watertight_outward_and_in_micrometres(exporter: Exporter, mesh_format: str) -> None:
    entry = write_surface(exporter, mesh_format)
    mesh = trimesh.load(exporter.folder / entry.name)
    assert entry.name == f"cell_0000/frame_0000.{mesh_format}"
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.volume == pytest.approx(SURFACE.volume * MICROMETRES**3, rel=1e-5)
    assert mesh.bounds == pytest.approx(
        np.array([SURFACE.vertices.min(axis=0), SURFACE.vertices.max(axis=0)]) * MICROMETRES, rel=1e-5
    )
    assert mesh.euler_number == SURFACE.euler_number


@pytest.mark.parametrize("micrometres", [1e-3, 0.7, 15.5, 4000.0])
@pytest.mark.parametrize("mesh_format", ["obj", "ply"])
def test_faces_and_vertices_come_back_as_they_were(mesh_format: str, micrometres: float) -> None:
    mesh = reopened(ENCODERS[mesh_format](SURFACE, micrometres=micrometres), mesh_format, process=False)
    assert np.array_equal(mesh.faces, SURFACE.faces)
    assert np.abs(mesh.vertices / micrometres - SURFACE.vertices).max() < 1.2e-7


def test_a_second_reader_agrees_about_the_stl(exporter: Exporter) -> None:
    entry = write_surface(exporter, "stl")
    mesh = stl.mesh.Mesh.from_file(str(exporter.folder / entry.name), calculate_normals=False)
    assert mesh.vectors == pytest.approx(SURFACE.vertices[SURFACE.faces] * np.float32(MICROMETRES), rel=1e-6)
    volume, _, _ = mesh.get_mass_properties()
    assert volume == pytest.approx(SURFACE.volume * MICROMETRES**3, rel=1e-4)
    computed = np.cross(mesh.v1 - mesh.v0, mesh.v2 - mesh.v0)
    computed /= np.linalg.norm(computed, axis=1, keepdims=True)
    assert mesh.normals == pytest.approx(computed, abs=1e-3)


def test_a_binary_stl_cannot_be_taken_for_ascii_and_has_the_right_length() -> None:
    content = encode_stl(SURFACE, micrometres=1.0)
    assert not content[:80].lower().startswith(b"solid")
    assert struct.unpack("<I", content[80:84]) == (len(SURFACE.faces),)
    assert len(content) == 84 + 50 * len(SURFACE.faces)


def test_obj_indices_begin_at_one_and_numbers_are_plain() -> None:
    surface = Surface(
        vertices=np.array([[0, 0, 0], [-1, 0.5, 1e-8], [1, -0.25, 0.125]], dtype=np.float32),
        faces=np.array([[0, 1, 2]], dtype=np.int32),
    )
    text = encode_obj(surface, micrometres=12.0).decode()
    assert text.splitlines()[1:] == [
        "v 0.000000 0.000000 0.000000",
        "v -12.000000 6.000000 0.000000",
        "v 12.000000 -3.000000 1.500000",
        "f 1 2 3",
    ]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(*[st.floats(-1, 1, width=32)] * 3), min_size=1, max_size=20),
    st.floats(1e-3, 1e4),
)
def test_any_coordinates_survive_the_obj(rows: list[tuple[float, float, float]], micrometres: float) -> None:
    vertices = np.array(rows, dtype=np.float32)
    text = encode_obj(Surface(vertices=vertices, faces=np.zeros((1, 3), dtype=np.int32)), micrometres=micrometres)
    read = np.array([line.split()[1:] for line in text.decode().splitlines()[1:-1]], dtype=np.float64)
    assert read == pytest.approx(vertices.astype(np.float64) * micrometres, abs=0.51e-7 * micrometres)


# ---------------------------------------------------------------------------------------------------- label volumes


@pytest.mark.parametrize("frames", [2, 5])
def test_reopened_label_volumes_equal_what_was_written_as_tzyx_in_micrometres(exporter: Exporter, frames: int) -> None:
    rng = np.random.default_rng(3)
    written = rng.integers(0, 65536, (frames, *GRID.shape)).astype(np.uint16)
    with label_volumes(exporter, "cell_0000", times=frame_times(frames).tolist()) as write:
        for labels in written:
            write(labels)
    with tifffile.TiffFile(exporter.folder / "cell_0000/labels.tif") as file:
        assert file.is_imagej
        assert not file.is_bigtiff
        assert file.series[0].axes == "TZYX"
        read = file.asarray()
        facts = file.imagej_metadata
        across, down = (file.pages[0].tags[name].value for name in ("XResolution", "YResolution"))
        assert "DateTime" not in file.pages[0].tags
        assert all(page.compression == tifffile.COMPRESSION.ADOBE_DEFLATE for page in file.pages)
    assert read.dtype == np.uint16
    assert np.array_equal(read, written.transpose(0, 3, 2, 1))
    spacing = GRID.step * MICROMETRES
    assert facts is not None
    assert (facts["unit"], facts["hyperstack"]) == ("micron", True)
    assert facts["spacing"] == pytest.approx(spacing[2])
    assert across[1] / across[0] == pytest.approx(spacing[0], rel=1e-5)
    assert down[1] / down[0] == pytest.approx(spacing[1], rel=1e-5)
    assert (facts["finterval"], facts["tunit"]) == (pytest.approx(60 * MINUTES / (frames - 1), rel=1e-6), "sec")
    assert [facts[f"{axis}origin"] for axis in "xyz"] == [(n - 1) / 2 for n in GRID.shape]


@pytest.mark.parametrize("shape", [(8, 9, 10), (2, 5, 3)])
def test_a_single_frame_is_still_a_volume_over_time(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    exporter = Exporter(tmp_path, grid=Grid(shape), micrometres=1.0, minutes=1.0)
    labels = np.arange(math.prod(shape), dtype=np.uint16).reshape(shape)
    with label_volumes(exporter, "labels", times=[0.0]) as write:
        write(labels)
    with tifffile.TiffFile(tmp_path / "labels/labels.tif") as file:
        assert file.series[0].get_axes(squeeze=False).startswith("TZCYX")
        assert file.series[0].get_shape(squeeze=False)[:5] == (1, shape[2], 1, shape[1], shape[0])
        assert np.array_equal(file.asarray(), labels.T)
        assert file.imagej_metadata is not None
        assert "finterval" not in file.imagej_metadata


def test_uneven_times_state_no_frame_interval(exporter: Exporter) -> None:
    with label_volumes(exporter, "labels", times=[-1.0, 0.0, 0.25]) as write:
        for _ in range(3):
            write(LABELS)
    with tifffile.TiffFile(exporter.folder / "labels/labels.tif") as file:
        assert file.imagej_metadata is not None
        assert "finterval" not in file.imagej_metadata


def test_a_voxel_and_a_vertex_at_the_same_place_have_the_same_micrometres(exporter: Exporter) -> None:
    with label_volumes(exporter, "labels", times=[0.0]) as write:
        write(LABELS)
    with tifffile.TiffFile(exporter.folder / "labels/labels.tif") as file:
        facts, read = file.imagej_metadata, file.asarray()
    assert facts is not None
    origin = np.array([facts[f"{axis}origin"] for axis in "xyz"])
    voxels = (np.argwhere(read)[:, ::-1] - origin) * exporter.units.spacing
    mesh = reopened(encode_stl(SURFACE, micrometres=MICROMETRES), "stl")
    assert voxels.mean(axis=0) == pytest.approx(mesh.center_mass, abs=0.1)
    assert (voxels.min(axis=0) >= mesh.bounds[0]).all()
    assert (voxels.max(axis=0) <= mesh.bounds[1]).all()
    assert np.abs(voxels.min(axis=0) - mesh.bounds[0]).max() < max(exporter.units.spacing)


def test_missing_and_surplus_frames_and_other_grids_are_refused(exporter: Exporter) -> None:
    with (
        pytest.raises(ExportError, match="1 of 2 frames"),
        label_volumes(exporter, "missing", times=[-1.0, 1.0]) as write,
    ):
        write(LABELS)
    with label_volumes(exporter, "surplus", times=[0.0]) as write:
        write(LABELS)
        with pytest.raises(ExportError, match="already holds"):
            write(LABELS)
    with (
        pytest.raises(ExportError, match="uint16 of shape"),
        label_volumes(exporter, "other", times=[0.0]) as write,
    ):
        write(LABELS[1:])
    assert [entry.name for entry in exporter.files] == ["surplus/labels.tif"]


def test_more_than_4_gib_are_refused_before_they_are_written() -> None:
    written = [0]

    def measure(content: bytes) -> None:
        written[0] += len(content)

    noise = np.random.default_rng(0).integers(0, 65536, (1, 512, 512)).astype(np.uint16)  # does not compress
    writer = HyperstackWriter(measure, Hyperstack(shape=(10**6, 1, 512, 512), spacing=(1, 1, 1), origin=(0, 0, 0)))
    writer.write(noise)
    writer._position = 2**32 - 2**18  # as if four gigabytes had gone before
    before = written[0]
    with pytest.raises(ExportError, match="4 GiB"):
        writer.write(noise)
    assert written[0] == before


# --------------------------------------------------------------------------------------------------------- manifest


def write_everything(folder: Path) -> dict[str, Any]:
    exporter = Exporter(folder, grid=GRID, micrometres=MICROMETRES, minutes=MINUTES)
    for mesh_format in MESHES:
        write_surface(exporter, mesh_format)
    with label_volumes(exporter, "cell_0000", times=[-1.0, 1.0]) as write:
        write(LABELS)
        write(LABELS)
    cell = {
        "index": 0,
        "latent": [0.25, -1.0],
        "rotation": [1.0, 0.0, 0.0, 0.0],
        "seed": 7,
        "tracks": [{"label": 1, "first_frame": 0, "last_frame": 1, "parent": 0}],
        "frames": [{"time": -1.0}, {"time": 1.0}],
    }
    return exporter.write_manifest(
        spec={"seed": 7}, model_id="celegans", model_sha256="0" * 64, version="1.0", device_class="cpu", cells=[cell]
    )


def test_the_manifest_lists_every_file_with_its_checksum(tmp_path: Path) -> None:
    manifest = write_everything(tmp_path)
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert [entry["name"] for entry in manifest["files"]] == [name for name in found if name != "manifest.json"]
    for entry in manifest["files"]:
        content = (tmp_path / entry["name"]).read_bytes()
        assert entry["bytes"] == len(content)
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
    types = {Path(entry["name"]).suffix: entry["media_type"] for entry in manifest["files"]}
    assert types[".stl"] == "model/stl"
    assert types[".tif"] == "image/tiff"


def test_the_manifest_is_canonical_and_reads_back(tmp_path: Path) -> None:
    manifest = write_everything(tmp_path)
    text = (tmp_path / "manifest.json").read_text()
    assert json.loads(text) == manifest
    assert text == json.dumps(manifest, sort_keys=True, indent=2) + "\n"
    assert "warnings" not in manifest  # named only where there are any
    assert Manifest.model_validate_json(text).model_dump(mode="json") == {
        **manifest,
        "warnings": [],
        "cells_spec": None,
    }
    assert manifest["format"] == "cytosynth-manifest/1"
    assert manifest["units"]["spacing"] == pytest.approx((GRID.step * MICROMETRES).tolist())


def test_the_same_cells_give_the_same_bytes(tmp_path: Path) -> None:
    write_everything(tmp_path / "once")
    write_everything(tmp_path / "again")
    for path in (tmp_path / "once").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(tmp_path / "once")).read_bytes()


@pytest.mark.parametrize("name", ["../evil.stl", "/etc/passwd", "a//b", "a/../b", ".hidden", "", "a\\b", "a/"])
def test_a_manifest_never_names_a_file_outside_its_folder(name: str) -> None:
    with pytest.raises(ValidationError):
        FileEntry(name=name, bytes=0, sha256="0" * 64, media_type="model/stl")


def test_minutes_run_from_zero_over_the_life(exporter: Exporter) -> None:
    assert [exporter.minutes_at(time) for time in (-1.0, 0.0, 1.0)] == [0.0, MINUTES / 2, MINUTES]


def test_a_full_disk_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "cell_0000").mkdir()
    (tmp_path / "cell_0000" / "frame_0000.stl").symlink_to("/dev/full")
    exporter = Exporter(tmp_path, grid=GRID, micrometres=1.0, minutes=1.0)
    with pytest.raises(ExportError, match="exists"):
        write_surface(exporter, "stl")
    (tmp_path / "manifest.json").symlink_to("/dev/full")
    with pytest.raises(ExportError, match=r"'manifest.json' could not be written: no space left on device; free disk"):
        exporter.write_manifest(spec={}, model_id="a", model_sha256="0" * 64, version="1", device_class="cpu", cells=[])
    assert exporter.files == ()


def test_a_folder_that_is_a_file_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "cell_0000").write_bytes(b"")
    exporter = Exporter(tmp_path, grid=GRID, micrometres=1.0, minutes=1.0)
    with pytest.raises(ExportError, match="could not be written"):
        write_surface(exporter, "obj")


@pytest.mark.parametrize("mesh_format", ["obj", "ply"])
def test_bodies_are_told_apart_on_request(mesh_format: str, tmp_path: Path) -> None:
    """Two balls with labels 2 and 5: each is a closed mesh of its own volume."""
    field = np.minimum(
        evaluate_dense(lambda p: np.linalg.norm(p - [-0.5, 0, 0], axis=1) - 0.3, GRID),
        evaluate_dense(lambda p: np.linalg.norm(p - [0.5, 0, 0], axis=1) - 0.2, GRID),
    )
    surface, labels = extract_surface(field, GRID), label_volume(field)
    labels = np.where(labels == 1, 2, np.where(labels == 2, 5, 0)).astype(np.uint16)
    written = {}
    for separate in (False, True):
        exporter = Exporter(tmp_path / str(separate), grid=GRID, micrometres=10.0, minutes=1.0)
        cell = CellFiles(exporter=exporter, name="c", times=[0.0], spec={"separate_bodies": separate})
        with open_writers([mesh_format], cell) as write:
            write(ExportFrame(number=0, time=0.0, surface=surface, labelled=SimpleNamespace(runs=runs_of(labels))))
        written[separate] = (tmp_path / str(separate) / f"c/frame_0000.{mesh_format}").read_bytes()
    path = tmp_path / "True" / f"c/frame_0000.{mesh_format}"
    if mesh_format == "obj":
        assert b"\no " not in written[False]
        whole = trimesh.load_mesh(path, process=False)  # which knows no objects
        lines = path.read_text().splitlines()
        names = [line.split()[1] for line in lines if line.startswith("o ")]
        of_face = np.cumsum([line.startswith("o ") for line in lines if line[0] in "of"])
        of_face = of_face[[line[0] == "f" for line in lines if line[0] in "of"]]
        volumes = {name: whole.submesh([of_face == n], append=True).volume for n, name in enumerate(names, start=1)}
    else:
        assert b"label" not in written[False]
        whole = trimesh.load_mesh(path, process=False)
        of_face = np.asarray(whole.metadata["_ply_raw"]["face"]["data"]["label"]).reshape(-1)
        volumes = {f"cell_{n}": whole.submesh([of_face == n], append=True).volume for n in np.unique(of_face)}
    assert set(volumes) == {"cell_2", "cell_5"}
    assert volumes["cell_2"] == pytest.approx(4 / 3 * np.pi * 3.0**3, rel=0.03)
    assert volumes["cell_5"] == pytest.approx(4 / 3 * np.pi * 2.0**3, rel=0.05)


def test_bodies_that_no_format_can_tell_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="only obj or ply"):
        GenerationSpec.model_validate({"model": "a", "separate_bodies": True, "formats": ["stl", "tiff"]})
    spec = GenerationSpec.model_validate({"model": "a", "formats": ["obj"]})
    assert "separate_bodies" not in spec.model_dump()  # digests are those of before the member existed


def test_the_quality_report_counts_bodies_and_handles() -> None:
    """A torus and a ball: genus 1 and 0, closed and outward; one triangle turned is noticed."""

    def torus(p: np.ndarray) -> np.ndarray:
        return np.hypot(np.hypot(p[:, 0] + 0.25, p[:, 1]) - 0.4, p[:, 2]) - 0.15

    grid = Grid((48, 48, 48))
    field = np.minimum(
        evaluate_dense(torus, grid), evaluate_dense(lambda p: np.linalg.norm(p - [0.7, 0, 0], axis=1) - 0.12, grid)
    )
    surface = extract_surface(field, grid)
    found = measure(surface)
    assert (found["watertight"], found["outward"], found["degenerate"]) == (True, True, 0)
    assert [(body["euler_number"], body["genus"]) for body in found["bodies"]] == [(0, 1), (2, 0)]
    mesh = trimesh.Trimesh(surface.vertices, surface.faces, process=False)
    assert found["smallest_angle_deg"] == pytest.approx(np.degrees(mesh.face_angles.min()), rel=1e-3)
    turned = surface.faces.copy()
    turned[0] = turned[0][::-1]
    assert measure(replace(surface, faces=turned))["watertight"] is False
    assert measure(replace(surface, faces=surface.faces[:, ::-1].copy()))["outward"] is False
