"""From files as users have them to training sequences."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cells_on_disk as disk
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from model.errors import DatasetError
from model.learning.dataset import Dataset, build_dataset
from model.learning.import_report import as_json, imported_rows, source_rows
from model.learning.imported_cells import ImportPlan, import_sequences, load_shape
from model.learning.recipe import TrainConfig
from model.learning.recipe_template import write_recipe
from model.learning.sources import ImportedSource
from model.network.autodecoder import NetworkConfig
from model.readers.label_volumes import read_frame
from model.readers.open import open_recordings
from model.readers.recording import Calibration
from model.readers.survey import Surveyed, survey

GIVEN = Calibration(disk.SPACING)
NOTHING = Calibration()


def surveyed(source: Path, given: Calibration = NOTHING, tracks: Path | None = None) -> list[Surveyed]:
    return survey(open_recordings(source, given=given, tracks=tracks))


def imported(
    source: Path, folder: Path, given: Calibration = NOTHING, *, points: int = 2048, workers: int = 1, **plan: object
) -> Dataset:
    recordings = open_recordings(source, given=given)
    chosen = ImportPlan(points_per_frame=points, **plan)  # type: ignore[arg-type]
    return import_sequences(recordings, survey(recordings), folder, plan=chosen, workers=workers)


def codes(found: list[Surveyed]) -> dict[str, set[str]]:
    return {one.sequence.name: {finding.code for finding in one.findings} for one in found}


def by_name(dataset: Dataset, ending: str) -> int:
    return next(number for number, name in enumerate(dataset.names) if name.endswith(ending))


# ------------------------------------------------------------------------------------------------------------- formats


@pytest.fixture(scope="module")
def movie(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return disk.write_imagej(tmp_path_factory.mktemp("movie") / "embryo.tif", disk.stack())


@pytest.fixture(scope="module")
def from_movie(movie: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return imported(movie, tmp_path_factory.mktemp("imported") / "cells")


def test_a_mother_and_her_daughters_are_one_sequence_and_other_cells_their_own(from_movie: Dataset) -> None:
    assert from_movie.names == [f"embryo-{disk.MOTHER}", f"embryo-{disk.OTHER}"]
    assert [block.shape for block in from_movie.samples] == [(disk.FRAMES, 2048, 4)] * 2
    before, after = (load_shape(from_movie.folder, 0, frame) for frame in (disk.DIVISION - 1, disk.DIVISION))
    assert (len(before.parts), len(after.parts)) == (1, 2)


def test_distances_are_metric_whatever_the_voxels_shape(from_movie: Dataset) -> None:
    """Voxels are 0.5 × 0.5 × 1 µm; the balls' distances are known."""
    unit = from_movie.micrometres
    for frame in range(disk.FRAMES):
        block = from_movie.samples[by_name(from_movie, str(disk.OTHER))][frame]
        truth = np.linalg.norm(block[:, :3], axis=1) - 4.2 / unit
        near = np.abs(truth) < 0.2
        assert np.sqrt(np.mean((block[near, 3] - truth[near]) ** 2)) * unit < 0.12  # µm; half a voxel is 0.25
    block = from_movie.samples[0][0]
    assert np.abs(block[:, :3]).max() <= 1.0
    assert (block[:, 3] < 0).any()


def test_one_scale_holds_for_all_and_the_largest_cell_leaves_the_margin(from_movie: Dataset) -> None:
    reach = max(
        float(np.abs(load_shape(from_movie.folder, number, frame).outline.vertices).max())
        for number in range(2)
        for frame in range(disk.FRAMES)
    )
    assert 0.80 < reach <= 0.86  # 1 − 0.15, up to half a voxel
    volumes = [load_shape(from_movie.folder, 1, frame).outline.volume for frame in range(disk.FRAMES)]
    assert np.allclose(np.array(volumes) * from_movie.micrometres**3, 4 / 3 * np.pi * 4.2**3, rtol=0.03)


def test_each_sequence_may_fill_omega(movie: Path, tmp_path: Path) -> None:
    dataset = imported(movie, tmp_path / "own", scale="sequence", margin=0.3)
    for number in range(2):
        shapes = [load_shape(dataset.folder, number, frame) for frame in range(disk.FRAMES)]
        assert max(np.abs(shape.outline.vertices).max() for shape in shapes) == pytest.approx(0.7, abs=0.03)


def test_the_scale_is_read_from_imagej_and_ome(movie: Path, tmp_path: Path) -> None:
    assert open_recordings(movie, given=NOTHING)[0].calibration == Calibration(disk.SPACING, 1.5)
    path = tmp_path / "cells.ome.tif"
    tifffile.imwrite(
        path,
        disk.stack(),
        metadata={
            "axes": "TZYX",
            "PhysicalSizeX": 500.0, "PhysicalSizeXUnit": "nm",
            "PhysicalSizeY": 500.0, "PhysicalSizeYUnit": "nm",
            "PhysicalSizeZ": 1.0, "PhysicalSizeZUnit": "µm",
            "TimeIncrement": 1.5, "TimeIncrementUnit": "min",
        },
    )  # fmt: skip
    assert open_recordings(path, given=NOTHING)[0].calibration == Calibration(disk.SPACING, 1.5)
    given = Calibration((0.1, 0.1, 0.1))
    assert open_recordings(path, given=given)[0].calibration == Calibration((0.1, 0.1, 0.1), 1.5)


def test_points_can_gather_where_membranes_bend(from_movie: Dataset, movie: Path, tmp_path: Path) -> None:
    """Other points of the same shapes: distances stay exact."""
    bent = imported(movie, tmp_path / "bent", bend_share=1.0)
    assert bent.micrometres == from_movie.micrometres
    for number, block in enumerate(bent.samples):
        assert block.shape == from_movie.samples[number].shape
        assert not np.array_equal(block[0], from_movie.samples[number][0])
        distances = load_shape(from_movie.folder, number, 0)(np.ascontiguousarray(block[0, :, :3]))
        assert np.allclose(distances, block[0, :, 3], atol=1e-5)


@pytest.mark.parametrize("how", ["challenge", "result", "frames", "tracks"])
def test_the_same_cells_give_the_same_sequences_in_every_format(
    how: str, from_movie: Dataset, movie: Path, tmp_path: Path
) -> None:
    if how == "challenge":
        source, tracks = disk.write_challenge(tmp_path / "01_GT" / "TRA"), None
    elif how == "result":
        source, tracks = disk.write_challenge(tmp_path / "01_RES", name="mask"), None
    else:
        source, tracks = tmp_path / "stack", None
        source.mkdir()
        for frame in range(disk.FRAMES):
            tifffile.imwrite(source / f"t{frame}.tif", disk.labels(frame), photometric="minisblack")
        if how == "tracks":
            tracks = disk.write_challenge(tmp_path / "x") / "man_track.txt"
    recordings = open_recordings(source, given=GIVEN, tracks=tracks)
    dataset = import_sequences(recordings, survey(recordings), tmp_path / "out", plan=ImportPlan(points_per_frame=2048))
    assert [name.rpartition("-")[2] for name in dataset.names] == [str(disk.MOTHER), str(disk.OTHER)]
    assert all(np.array_equal(a, b) for a, b in zip(dataset.samples, from_movie.samples, strict=True))


def test_any_number_of_processes_gives_the_same_bytes(movie: Path, from_movie: Dataset, tmp_path: Path) -> None:
    dataset = imported(movie, tmp_path / "two", workers=2)
    assert all(np.array_equal(a, b) for a, b in zip(dataset.samples, from_movie.samples, strict=True))


@pytest.mark.parametrize("suffix", [".stl", ".obj", ".ply"])
def test_meshes_are_used_as_they_are(suffix: str, tmp_path: Path) -> None:
    dataset = imported(disk.write_meshes(tmp_path / "cell", suffix), tmp_path / "out")
    for frame in range(disk.FRAMES):
        shape = load_shape(dataset.folder, 0, frame)
        volume = shape.outline.volume * dataset.micrometres**3
        assert volume == pytest.approx(4 / 3 * np.pi * (5.0 + 0.2 * frame) * 4.0 * 3.0, rel=5e-3)
        assert np.allclose(shape.outline.centroid, 0.0, atol=1e-6)
        block = dataset.samples[0][frame]
        assert np.allclose(shape(block[:200, :3]), block[:200, 3], atol=1e-6)


def test_a_folder_of_folders_is_a_set_of_sequences(tmp_path: Path) -> None:
    for name in ("a", "b"):
        disk.write_meshes(tmp_path / "cells" / name, ".ply")
    assert imported(tmp_path / "cells", tmp_path / "out").names == ["a", "b"]


def field_of_balls() -> NDArray[np.float32]:
    """Signed distances (t, x, y, z) of a growing ball, each frame on a scale of its own as the release has them."""
    axis = np.arange(25) / 12.0 - 1.0
    radius = np.linalg.norm(np.stack(np.meshgrid(axis, axis, axis, indexing="ij")), axis=0)
    frames = [radius - 0.4 - 0.02 * t for t in range(4)]
    return np.stack([frame / np.abs(frame).max() for frame in frames]).astype(np.float32)


@pytest.mark.parametrize("suffix", [".npy", ".mat", ".h5"])
def test_sampled_distances_give_metric_ones(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"cell{suffix}"
    if suffix == ".npy":
        np.save(path, field_of_balls())
    elif suffix == ".mat":
        from scipy.io import savemat

        savemat(path, {"sdf_vid": field_of_balls()})
    else:
        h5py = pytest.importorskip("h5py", reason="h5py is not installed")
        with h5py.File(path, "w") as file:
            file["sdf_vid"] = field_of_balls().transpose(3, 2, 1, 0)
    dataset = imported(path, tmp_path / "out", Calibration((0.5, 0.5, 0.5)))
    unit = dataset.micrometres
    for frame, block in enumerate(dataset.samples[0]):
        truth = np.linalg.norm(block[:, :3], axis=1) - (0.4 + 0.02 * frame) * 6.0 / unit
        assert np.abs(block[:, 3] - truth).max() * unit < 0.06  # µm: an eighth of a voxel of 0.5


def test_hdf5_without_its_reader_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    (tmp_path / "cell.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(DatasetError, match="install the package h5py"):
        open_recordings(tmp_path / "cell.h5", given=NOTHING)


def test_frames_are_read_one_by_one(movie: Path, tmp_path: Path) -> None:
    compressed = tmp_path / "z.tif"
    tifffile.imwrite(compressed, disk.stack(), compression="zlib", metadata={"axes": "TZYX"})
    for path in (movie, compressed):
        assert all(np.array_equal(read_frame(path, frame), disk.labels(frame)) for frame in range(disk.FRAMES))


def test_a_mask_of_255_is_one_cell_not_255(tmp_path: Path) -> None:
    masks = np.stack([(disk.labels(frame) == disk.OTHER) * np.uint8(255) for frame in range(4)])
    disk.write_imagej(tmp_path / "cell.tif", masks)
    found = surveyed(tmp_path / "cell.tif")
    assert [(one.sequence.name, one.sequence.labels) for one in found] == [("cell", [(1,)] * 4)]
    assert codes(found) == {"cell": set()}


def test_a_single_cell_that_divides_later_is_labelled_all_the_same(tmp_path: Path) -> None:
    renamed = np.select([disk.stack() == label for label in (disk.MOTHER, *disk.DAUGHTERS)], [1, 2, 3], 0)
    disk.write_imagej(tmp_path / "cell.tif", renamed.astype(np.uint8))
    sequence = surveyed(tmp_path / "cell.tif")[0].sequence
    assert sequence.labels == [(1,)] * disk.DIVISION + [(2, 3)] * (disk.FRAMES - disk.DIVISION)


# ------------------------------------------------------------------------------------------------------------ findings


def damaged(volume: NDArray[np.uint16], fault: str) -> NDArray[np.uint16]:
    volume = volume.copy()
    if fault == "empty":
        volume[2] = 0
    elif fault == "border":
        volume = volume[:, 9:]  # through the second cell's middle
    elif fault == "bodies":
        volume[4, 2:9, 30:40, 2:9] = disk.OTHER
    elif fault == "gap":
        volume[2][volume[2] == disk.OTHER] = 0
    elif fault == "specks":
        volume[1, 28, 2, 2] = disk.OTHER
    elif fault == "short":
        volume = volume[:2]
    elif fault == "jump":
        volume[3][disk.ball((19.0, 11.0, 12.0), 2.6) ^ (volume[3] == disk.OTHER)] = 0
    return volume


@pytest.mark.parametrize(
    ("fault", "severity", "frames"),
    [
        ("empty", "error", [2]),
        ("border", "error", list(range(disk.FRAMES))),
        ("bodies", "error", [4]),
        ("short", "error", [0, 1]),
        ("gap", "warning", [2]),
        ("specks", "warning", [1]),
        ("jump", "warning", [3, 4]),
    ],
)
def test_every_fault_is_found_where_it_is(fault: str, severity: str, frames: list[int], tmp_path: Path) -> None:
    disk.write_imagej(tmp_path / "cells.tif", damaged(disk.stack(), fault))
    other = next(one for one in surveyed(tmp_path / "cells.tif") if one.sequence.name.endswith(f"-{disk.OTHER}"))
    found = {finding.code: finding for finding in other.findings}
    assert found[fault].severity == severity
    assert found[fault].frames == frames
    assert other.is_usable == (severity == "warning")


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_a_mask_of_a_single_slice_is_an_error_that_says_what_to_do(axis: int, tmp_path: Path) -> None:
    volume = np.zeros((4, 12, 14, 16), np.uint16)
    box = [slice(None), slice(3, 9), slice(3, 9), slice(3, 9)]
    box[axis] = slice(5, 6)
    volume[tuple(box)] = 1
    (one,) = surveyed(disk.write_imagej(tmp_path / "flat.tif", volume))
    (finding,) = [finding for finding in one.findings if finding.severity == "error"]
    assert (finding.code, finding.frames) == ("flat", [0, 1, 2, 3])
    assert finding.message.endswith("give masks of several slices")
    volume[1:, 5:7, 5:7, 5:7] = 1
    (one,) = surveyed(disk.write_imagej(tmp_path / "once.tif", volume))
    assert [finding.frames for finding in one.findings if finding.code == "flat"] == [[0]]


def test_good_cells_have_no_findings(movie: Path) -> None:
    assert codes(surveyed(movie)) == {f"embryo-{label}": set() for label in (disk.MOTHER, disk.OTHER)}


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (NOTHING, "no_spacing"),
        (Calibration((0.5, 0.5, 0.0)), "bad_spacing"),
        (Calibration((0.5, float("nan"), 1.0)), "bad_spacing"),
    ],
)
def test_a_scale_that_is_missing_or_impossible_is_an_error(given: Calibration, code: str, tmp_path: Path) -> None:
    source = disk.write_challenge(tmp_path / "TRA")
    assert all(code in found for found in codes(surveyed(source, given)).values())
    with pytest.raises(DatasetError, match="no sequence can be used"):
        imported(source, tmp_path / "out", given)
    assert not (tmp_path / "out").exists()


def test_an_open_mesh_and_a_missing_frame_are_found(tmp_path: Path) -> None:
    import trimesh

    folder = disk.write_meshes(tmp_path / "cell", ".stl")
    mesh = trimesh.load_mesh(folder / "cell_3.stl")
    mesh.update_faces(np.arange(len(mesh.faces)) > 4)
    mesh.export(folder / "cell_3.stl")
    (folder / "cell_5.stl").unlink()
    (folder / "cell_6.stl").write_bytes(b"solid nothing")
    found = {finding.code: finding.frames for finding in surveyed(folder)[0].findings}
    assert found["open"] == [3]
    assert found["unreadable"] == [6]


def test_faulty_sequences_are_left_out_and_the_good_ones_kept(tmp_path: Path) -> None:
    disk.write_imagej(tmp_path / "cells.tif", damaged(disk.stack(), "bodies"))
    dataset = imported(tmp_path / "cells.tif", tmp_path / "out")
    assert dataset.names == [f"cells-{disk.MOTHER}"]
    rows = json.loads((tmp_path / "out/survey.json").read_text())["sequences"]
    assert {row["name"]: row["imported"] for row in rows} == {"cells-2": True, "cells-5": False}


def test_frames_that_are_missing_leave_their_time_free(tmp_path: Path) -> None:
    disk.write_imagej(tmp_path / "cells.tif", damaged(disk.stack(), "gap"))
    dataset = imported(tmp_path / "cells.tif", tmp_path / "out")
    number = by_name(dataset, str(disk.OTHER))
    assert np.allclose(dataset.times(number), [-1.0, -0.6, 0.2, 0.6, 1.0])
    assert np.allclose(dataset.times(by_name(dataset, str(disk.MOTHER))), np.arange(6) / 2.5 - 1.0)


# ------------------------------------------------------------------------------------------------- the imported folder


def test_the_import_leaves_a_recipe_that_trains_on_it(from_movie: Dataset, movie: Path) -> None:
    config = TrainConfig.read(write_recipe(from_movie, surveyed(movie)))
    assert config.id == "cells"
    assert config.topology == "single"  # one of two cells divides
    assert isinstance(config.data, ImportedSource)
    again = build_dataset(config.data, Path("not used"))
    assert again.names == from_movie.names
    assert (again.micrometres, again.minutes) == (from_movie.micrometres, from_movie.minutes)


def test_a_recipe_takes_the_network_of_a_model_to_start_from(from_movie: Dataset, movie: Path) -> None:
    network = NetworkConfig(latent_size=7, width=24, depth=3, conditioning_width=16, rank=5, frequency=2.5)
    config = TrainConfig.read(write_recipe(from_movie, surveyed(movie), network=network))
    assert config.network == network
    assert config.copies == 0


def test_a_sound_import_is_reported_as_such_and_damage_is_found(from_movie: Dataset, tmp_path: Path) -> None:
    assert as_json(imported_rows(from_movie.folder))["errors"] == 0
    folder = Path(shutil.copytree(from_movie.folder, tmp_path / "copy"))
    block = np.load(folder / "sequence_0001.npy", mmap_mode="r+")
    block[2, 7, 3] = np.nan
    block[4, :, 3] = 1.0
    block.flush()
    report = as_json(imported_rows(folder))
    assert report["errors"] == 1
    findings = report["sequences"][1]["findings"]
    assert [(finding["code"], finding["frames"]) for finding in findings] == [("damaged", [2]), ("one_sided", [4])]


def test_a_report_is_a_document_for_programs(movie: Path) -> None:
    report = as_json(source_rows(surveyed(movie)))
    assert [row["frames"] for row in json.loads(json.dumps(report))["sequences"]] == [disk.FRAMES] * 2
    low, high = report["sequences"][1]["volumes_um3"]
    assert low == pytest.approx(4 / 3 * np.pi * 4.2**3, rel=0.05)
    assert low <= high


def test_an_import_is_never_overwritten(movie: Path, from_movie: Dataset) -> None:
    with pytest.raises(DatasetError, match="holds a data set already"):
        imported(movie, from_movie.folder)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("cells.txt", b"x", "holds no cells"),
        ("cells.tif", b"no tiff", "cannot be read as TIFF"),
        ("cells.npy", b"no array", "cannot be read"),
    ],
)
def test_what_is_no_data_is_refused_with_the_reason(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=words):
        open_recordings(tmp_path / name, given=NOTHING)
    with pytest.raises(DatasetError, match="there is no"):
        open_recordings(tmp_path / "nowhere", given=NOTHING)


def test_flat_images_and_channels_are_refused_by_their_axes(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "flat.tif", np.zeros((5, 8, 8), np.uint8), imagej=True, metadata={"axes": "TYX"})
    with pytest.raises(DatasetError, match="axes TYX"):
        open_recordings(tmp_path / "flat.tif", given=NOTHING)
    volume = np.zeros((2, 4, 3, 8, 8), np.uint8)
    tifffile.imwrite(tmp_path / "colour.tif", volume, imagej=True, metadata={"axes": "TZCYX"})
    with pytest.raises(DatasetError, match="axes TZCYX"):
        open_recordings(tmp_path / "colour.tif", given=NOTHING)


def test_the_space_of_the_samples_is_taken_before_they_are_computed(tmp_path: Path) -> None:
    recordings = open_recordings(disk.write_challenge(tmp_path / "cells"), given=GIVEN)
    missing: list[int] = []

    def look(_done: int, _total: int) -> None:
        for path in (tmp_path / "set").glob("sequence_*.npy"):
            stat = path.stat()
            missing.append(max(0, stat.st_size - 512 * stat.st_blocks))

    plan = ImportPlan(points_per_frame=2048)
    import_sequences(recordings, survey(recordings), tmp_path / "set", plan=plan, on_frame=look)
    assert missing
    assert set(missing) == {0}
