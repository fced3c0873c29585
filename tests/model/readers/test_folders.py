"""What is read from folders as labs have them: names, formats side by side, data sets, meshes from other programs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile
import trimesh
from click.testing import Result
from hypothesis import given as for_any
from hypothesis import settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from typer.testing import CliRunner

from model.__main__ import cli
from model.errors import DatasetError
from model.fitting.fit_targets import read_target
from model.membranes.triangle_distance import Membrane
from model.readers.naming import in_order_of_time
from model.readers.open import open_recordings
from model.readers.recording import Calibration
from model.readers.survey import Surveyed, survey
from model.readers.winding import facing_outward

CASES = Path(__file__).parents[3].parent / "shared" / "cases"
VOXEL = ("--voxel", "1", "1", "1")


def run(*arguments: str | Path, status: int = 0) -> Result:
    done = CliRunner(env={"COLUMNS": "400"}).invoke(cli, [str(argument) for argument in arguments])
    assert done.exit_code == status, (done.output, done.exception)
    return done


def text(result: Result) -> str:
    return re.sub(r"\s+", " ", result.output)


def surveyed(source: Path, spacing: tuple[float, float, float] | None = None) -> list[Surveyed]:
    return survey(open_recordings(source, given=Calibration(spacing)))


def codes(one: Surveyed) -> set[str]:
    return {finding.code for finding in one.findings}


def ball(radius: float = 5.0, at: Sequence[float] = (0.0, 0.0, 0.0)) -> trimesh.Trimesh:
    mesh = trimesh.creation.icosphere(subdivisions=2, radius=radius)
    mesh.apply_translation(at)
    return mesh


def inward(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices, mesh.faces[:, ::-1], process=False)


def write(folder: Path, meshes: dict[str, trimesh.Trimesh]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, mesh in meshes.items():
        mesh.export(folder / name)
    return folder


def labels(*centres: tuple[int, int, int, int], radius: int = 4) -> NDArray[np.uint16]:
    """Balls of voxels, each (label, z, y, x)."""
    volume = np.zeros((12, 16, 30), np.uint16)
    z, y, x = np.indices(volume.shape)
    for label, *centre in centres:
        volume[(z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 <= radius**2] = label
    return volume


def write_tiff(path: Path, volume: NDArray[np.generic]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, volume, photometric="minisblack")


# --------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "names",
    [
        [f"t{k}_ch0" for k in range(12)],
        [f"frame {k} of 12" for k in range(1, 13)],
        [f"cell12_t{k}_561nm" for k in (3, 4, 11)],
        [f"2024-03-05_t{k}_surface1" for k in (3, 9, 10)],
        ["t=0.5h", "t=1h", "t=1.5h", "t=10h"],
        ["cell_t1", "cell_t1.25", "cell_t1.5"],
        ["t=-1", "t=-0.5", "t=0", "t=1e-1", "t=2"],
        ["t0,5", "t1,25", "t1,5"],
        ["t0.0", "t0.25", "t0.5", "t1.0"],
        [f"frame_{k:03d}" for k in (8, 9, 10, 100)],
        [str(k) for k in (2, 9, 10)],
    ],
)
@pytest.mark.parametrize("suffix", [".stl", ".tif"])
def test_frames_are_in_the_order_of_the_number_that_varies(names: list[str], suffix: str, tmp_path: Path) -> None:
    files = [tmp_path / f"{name}{suffix}" for name in names]
    (ordered,) = in_order_of_time(sorted(files))
    assert [*ordered.files.values()] == files
    assert [*ordered.files] == sorted(ordered.files)
    assert not ordered.taken.warnings


def test_decimal_times_keep_their_distances(tmp_path: Path) -> None:
    (ordered,) = in_order_of_time([tmp_path / f"t={t}h.stl" for t in ("0.5", "1", "2.5")])
    assert [*ordered.files] == [0, 1, 4]
    (ordered,) = in_order_of_time([tmp_path / f"t{t}.stl" for t in (20240305101500, 20240305101600)])
    assert [*ordered.files] == [0, 1]
    assert ordered.taken.warnings


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["frame_1_vol_700", "frame_2_vol_650", "frame_3_vol_512"], r"frame 1 to 3, vol 512 to 700"),
        (["t0_ch0", "t0_ch1", "t1_ch0", "t1_ch1"], r"t 0 to 1, ch 0 to 1"),
        (["t1", "t01"], "are the same frame"),
        (["t1.0", "t1", "t2"], "are the same frame"),
        (["v1.8", "v1.9", "v1.10"], "decimal numbers or counts"),
        (["wild_1", "wild_2", "mutant_1"], "2 patterns of names"),
        (["t-1", "t0", "t1"], "2 patterns of names"),
    ],
)
def test_names_that_do_not_tell_the_order_are_refused(names: list[str], words: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "cells", {f"{name}.stl": ball() for name in names})
    with pytest.raises(DatasetError, match=words):
        open_recordings(folder, given=Calibration())


def test_names_without_numbers_are_taken_with_a_warning(tmp_path: Path) -> None:
    folder = write(tmp_path / "cells", {f"{name}.stl": ball() for name in ("before", "after", "later")})
    assert "order: the names hold no numbers" in text(run("validate", folder))


def test_fit_tells_of_frames_that_a_shell_put_in_another_order(tmp_path: Path) -> None:
    write(tmp_path, {f"t{k}.stl": ball(1e-6) for k in (1, 2, 10)})
    files = [tmp_path / f"t{k}.stl" for k in (1, 10, 2)]
    for given, told in ((files, True), ([files[0], files[2], files[1]], False)):
        done = CliRunner().invoke(cli, ["fit", *map(str, given), "--model", "celegans", "--out", str(tmp_path / "x")])
        assert ("by their names the order is by t: 1, 2, 10" in text(done)) == told
    output = text(run("fit", files[0], "--model", "celegans", "--out", tmp_path / "x", "--formats", "xyz", status=2))
    assert "--formats" in output


@settings(max_examples=60, deadline=None)
@for_any(
    numbers=st.sets(st.integers(0, 10**6), min_size=2, max_size=12),
    prefix=st.text("ab_- 7", max_size=5),
    suffix=st.sampled_from(["", "_ch0", "_561nm", " of 12"]),
)
def test_any_whole_numbers_are_in_order(numbers: set[int], prefix: str, suffix: str) -> None:
    ascending = sorted(numbers)
    files = [Path(f"{prefix}_t{number}{suffix}.stl") for number in ascending]
    (ordered,) = in_order_of_time(sorted(files))
    assert [*ordered.files.values()] == files


@settings(max_examples=100, deadline=None)
@for_any(names=st.lists(st.text("at0123.,-=e_ ", min_size=1, max_size=8), min_size=1, max_size=6, unique=True))
def test_any_names_are_ordered_once_each_or_refused(names: list[str]) -> None:
    files = [Path(f"x{name}.stl") for name in names]
    try:
        found = in_order_of_time(files)
    except DatasetError:
        return
    assert sorted(path for one in found for path in one.files.values()) == sorted(files)


def test_cells_numbered_in_one_folder_are_sequences_of_their_own(tmp_path: Path) -> None:
    radii = {f"cell{cell}_t{t}": 3.0 + cell + 0.1 * t for cell in (1, 2, 10) for t in range(3)}
    folder = write(tmp_path / "cells", {f"{name}.stl": ball(radius) for name, radius in radii.items()})
    found = surveyed(folder)
    assert [one.sequence.name for one in found] == ["cell1", "cell2", "cell10"]
    for one, cell in zip(found, (1, 2, 10), strict=True):
        assert np.allclose(one.volumes, [ball(radii[f"cell{cell}_t{t}"]).volume for t in range(3)], rtol=1e-5)


# ------------------------------------------------------------------------------------------------------- what is beside


def result_of_the_service(folder: Path) -> Path:
    for cell in range(2):
        frames = {f"frame_{k:04d}": ball(4.0 + cell + 0.2 * k) for k in range(3)}
        for suffix in (".stl", ".obj", ".ply"):
            write(folder / f"cell_{cell:04d}", {f"{name}{suffix}": mesh for name, mesh in frames.items()})
        write_tiff(folder / f"cell_{cell:04d}" / "labels.tif", np.stack([labels((1, 6, 8, 8))] * 3))
    (folder / "manifest.json").write_text("{}")
    return folder


def test_each_frame_is_read_once_of_several_formats(tmp_path: Path) -> None:
    folder = result_of_the_service(tmp_path / "result")
    found = surveyed(folder)
    assert [one.sequence.name for one in found] == ["cell_0000", "cell_0001"]
    for cell, one in enumerate(found):
        assert np.allclose(one.volumes, [ball(4.0 + cell + 0.2 * k).volume for k in range(3)], rtol=1e-5)
    output = text(run("validate", folder))
    assert "in several formats; .stl is read, 6 files are not" in output
    assert "labels.tif beside the files that are read: not read" in output
    assert "left_out" not in output
    (folder / "cell_0000" / "frame_0001.stl").unlink()
    assert len(surveyed(folder)[0].sequence.frames) == 3
    assert "not every frame is there in every format" in text(run("validate", folder))


@pytest.mark.parametrize("image", ["t{}.tif", "img_t{}.tif"])
@pytest.mark.parametrize("mask", ["t{}_cp_masks.tif", "t{}_mask.tif", "mask_t{}.tif", "t{}_labels.tif"])
def test_masks_are_read_and_the_images_beside_them_are_not(image: str, mask: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 20, (12, 16, 30)).astype(np.uint8)
    for t in range(3):
        write_tiff(tmp_path / "cells" / image.format(t), noise)
        write_tiff(tmp_path / "cells" / mask.format(t), labels((1, 6, 8, 14), radius=3 + t))
    write_tiff(tmp_path / "cells" / "t0_flows.tif", noise)
    (one,) = surveyed(tmp_path / "cells", (1.0, 1.0, 1.0))
    assert one.volumes.tolist() == [123.0, 257.0, 515.0]
    assert "3 masks" in text(
        run("validate", tmp_path / "cells", *VOXEL, status=1 if one.findings[0].severity == "error" else 0)
    )
    (tmp_path / "cells" / mask.format(1)).unlink()
    with pytest.raises(DatasetError, match="give a folder with the masks only"):
        open_recordings(tmp_path / "cells", given=Calibration())


def test_cellpose_arrays_and_folders_of_images_are_not_read_as_cells(tmp_path: Path) -> None:
    for t in range(3):
        write_tiff(tmp_path / "a" / f"t{t}.tif", labels((1, 6, 8, 8)))
        (tmp_path / "a" / f"t{t}_seg.npy").write_bytes(b"pickle")
        write_tiff(tmp_path / "b" / "images" / f"t{t}.tif", labels((1, 6, 8, 8)))
        write_tiff(tmp_path / "b" / "masks" / f"t{t}.tif", labels((1, 6, 8, 8)))
    with pytest.raises(DatasetError, match="save the masks as TIFF"):
        open_recordings(tmp_path / "a", given=Calibration())
    assert [one.sequence.name for one in surveyed(tmp_path / "b")] == ["masks"]


def test_what_lies_beside_and_is_not_read_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "cells", {f"t{k}.stl": ball() for k in range(3)})
    write(folder / "more", {"t0.stl": ball()})
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "._t0.stl").write_bytes(b"x")
    np.save(folder / "t0.npy", np.zeros((4, 4, 4)))
    assert "left_out: t0.npy, more beside the files that are read: not read" in text(run("validate", folder))
    write_tiff(tmp_path / "stacks" / "a.tif", np.stack([labels((1, 6, 8, 8))] * 3))
    write_tiff(tmp_path / "stacks" / "b.tif", labels((1, 6, 8, 8)))
    with pytest.raises(DatasetError, match=r"of all frames .* and of one frame"):
        open_recordings(tmp_path / "stacks", given=Calibration())


@pytest.mark.parametrize("how", ["loop", "broken", "empty", "hidden", "folder named as a file"])
def test_odd_folders_are_refused_in_one_sentence(how: str, tmp_path: Path) -> None:
    folder = tmp_path / "cells"
    (folder / "inner").mkdir(parents=True)
    if how == "loop":
        (folder / "inner" / "again").symlink_to(folder)
    elif how == "broken":
        (folder / "t0.stl").symlink_to(tmp_path / "nowhere.stl")
    elif how == "hidden":
        (folder / ".t0.stl").write_bytes(ball().export(file_type="stl"))
    elif how == "folder named as a file":
        (folder / "t0.stl").mkdir()
    with pytest.raises(DatasetError, match=r"remove|holds no cells"):
        open_recordings(folder, given=Calibration())


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read every file")
def test_a_folder_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir(mode=0)
    with pytest.raises(DatasetError, match="cannot be read"):
        open_recordings(tmp_path / "cells", given=Calibration())


# ----------------------------------------------------------------------------------------- the Cell Tracking Challenge


def write_dataset(folder: Path, *, silver: bool = True, slices: bool = True) -> Path:
    rng = np.random.default_rng(3)
    for t in range(4):
        cells = [(1, 6, 8, 8)] if t < 2 else [(2, 6, 8, 4), (3, 6, 8, 12)]
        write_tiff(folder / "01" / f"t{t:03d}.tif", rng.integers(0, 99, (12, 16, 30)).astype(np.uint8))
        write_tiff(folder / "01_GT/TRA" / f"man_track{t:03d}.tif", labels(*cells, (5, 6, 8, 22), radius=2))
        if silver:
            write_tiff(folder / "01_ST/SEG" / f"man_seg{t:03d}.tif", labels(*cells, (5, 6, 8, 22), radius=3))
    if slices:
        write_tiff(folder / "01_GT/SEG/man_seg_000_006.tif", labels((1, 6, 8, 8))[6])
    (folder / "01_GT/TRA/man_track.txt").write_text("1 0 1 0\n2 2 3 1\n3 2 3 1\n5 0 3 0\n")
    return folder


@pytest.mark.parametrize("slices", [True, False])
def test_a_data_set_as_unpacked_gives_silver_masks_with_the_tracks(slices: bool, tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "Fluo-N3DH-XX", slices=slices)
    found = {one.sequence.name: one for one in surveyed(folder, (1.0, 1.0, 1.0))}
    assert [*found] == ["01-1", "01-5"]
    assert found["01-1"].sequence.labels == [(1,), (1,), (2, 3), (2, 3)]
    assert found["01-1"].volumes.tolist() == [123.0, 123.0, 246.0, 246.0]
    output = text(run("validate", folder, *VOXEL))
    assert "masks of 01_ST/SEG; images and markers of the data set are not read" in output
    assert "tracks: from 01_GT/TRA/man_track.txt" in output
    again = open_recordings(
        folder / "01_ST/SEG", given=Calibration((1, 1, 1)), tracks=folder / "01_GT/TRA/man_track.txt"
    )
    assert [one.volumes.tolist() for one in survey(again)] == [one.volumes.tolist() for one in found.values()]


def test_markers_are_refused_or_told_of(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "Fluo-N3DH-XX", silver=False)
    for given in (folder, folder / "01_GT"):
        with pytest.raises(DatasetError, match=r"01_ST/SEG --tracks 01_GT/TRA/man_track\.txt"):
            open_recordings(given, given=Calibration())
    assert "hold markers, not shapes" in text(run("validate", folder / "01_GT/TRA", *VOXEL))


# -------------------------------------------------------------------------------------------------------------- tracks


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("10 0 2 -1\n4 0 2 -1\n", None),
        ("10 0 2 2\n4 0 2 0\n", "the parent of cell 10, 2, is in no line of the list"),
        ("10 0 2 2\n4 0 2 2\n", "the parent of cell 4, 2, is in no line of the list"),
        ("10 0 2 10\n4 0 2 0\n", "does not end before it begins"),
        ("10 0 2 4\n4 0 2 10\n", "does not end before it begins"),
        ("10 0 2 4\n4 0 2 0\n", "does not end before it begins"),
        ("10 0 2 0\n4 0 2 0\n7 0 2 0\n", "tracks 7 are in the list but in none"),
    ],
)
def test_no_cell_is_lost_to_a_parent_that_cannot_be_one(lines: str, told: str | None, tmp_path: Path) -> None:
    for t in range(3):
        write_tiff(tmp_path / "clip" / f"mask{t:03d}.tif", labels((10, 6, 8, 8), (4, 6, 8, 22)))
    (tmp_path / "clip" / "res_track.txt").write_text(lines)
    found = surveyed(tmp_path / "clip", (1.0, 1.0, 1.0))
    assert [one.sequence.name for one in found] == ["clip-4", "clip-10"]
    assert all(one.volumes.tolist() == [257.0] * 3 and one.is_usable for one in found)
    messages = [finding.message for one in found for finding in one.findings]
    assert messages == [] if told is None else any(told in message for message in messages)
    run("import", tmp_path / "clip", "--out", tmp_path / "out", *VOXEL, "--points", "1024")


def test_labels_in_no_line_of_the_list_are_told(tmp_path: Path) -> None:
    for t in range(3):
        write_tiff(tmp_path / "clip" / f"mask{t:03d}.tif", labels((10, 6, 8, 8), (4, 6, 8, 22)))
    (tmp_path / "clip" / "res_track.txt").write_text("10 0 2 0\n")
    assert "labels 4 are in the volumes but not in the list" in text(run("validate", tmp_path / "clip", *VOXEL))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe1", "not a text file"),
        (b"1 0 2 0\n1 3 4 0\n", "has a line already"),
        (b"1 5 2 0\n", "after it begins"),
    ],
)
def test_a_list_of_tracks_that_makes_no_sense_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    write_tiff(tmp_path / "t0.tif", labels((1, 6, 8, 8)))
    (tmp_path / "tracks.txt").write_bytes(content)
    for tracks, said in ((tmp_path / "tracks.txt", words), (tmp_path / "none.txt", "there is no list of tracks")):
        with pytest.raises(DatasetError, match=said):
            open_recordings(tmp_path / "t0.tif", given=Calibration(), tracks=tracks)


# -------------------------------------------------------------------------------------------------------------- meshes


def joined(*meshes: trimesh.Trimesh) -> trimesh.Trimesh:
    return trimesh.util.concatenate(list(meshes))


def test_a_daughter_that_is_inside_out_is_turned(tmp_path: Path) -> None:
    left, right = ball(3.8, (-4.5, 0, 0)), ball(3.8, (4.5, 0, 0))
    frames = {
        "t0.stl": ball(),
        "t1.stl": ball(),
        "t2.stl": joined(left, inward(right)),
        "t3.stl": joined(inward(left), right),
    }
    (one,) = surveyed(write(tmp_path / "cell", frames))
    assert np.allclose(one.volumes[2:], left.volume + right.volume, rtol=1e-5)
    assert np.allclose(one.centres, 0.0, atol=1e-4)
    turned = next(finding for finding in one.findings if finding.code == "turned")
    assert (turned.severity, turned.frames) == ("warning", [2, 3])


@pytest.mark.parametrize("outer_inward", [False, True])
def test_the_wall_of_a_cavity_stays_one_and_a_body_in_a_body_is_an_error(outer_inward: bool, tmp_path: Path) -> None:
    whole, hole = ball(5.0), ball(2.0, (1.0, 0, 0))
    hollow = joined(whole, inward(hole))
    nested = joined(whole, hole)
    if outer_inward:
        hollow, nested = inward(hollow), inward(nested)
    (one,) = surveyed(write(tmp_path / "hollow", {f"t{k}.ply": hollow for k in range(3)}))
    assert np.allclose(one.volumes, whole.volume - hole.volume, rtol=1e-5)
    assert one.is_usable
    (one,) = surveyed(write(tmp_path / "nested", {f"t{k}.ply": nested for k in range(3)}))
    assert "nested" in codes(one)
    with pytest.raises(DatasetError, match="lies in another"):
        read_target([tmp_path / "nested" / "t0.ply"], micrometres=10.0)


@settings(max_examples=25, deadline=None)
@for_any(flips=st.lists(st.booleans(), min_size=4, max_size=4), seed=st.integers(0, 99))
def test_bodies_apart_enclose_the_sum_of_their_volumes_whatever_way_they_face(flips: list[bool], seed: int) -> None:
    rng = np.random.default_rng(seed)
    bodies = [ball(float(rng.uniform(0.5, 1.9)), (4.0 * k, *rng.uniform(-9, 9, 2))) for k in range(4)]
    mesh = joined(*(inward(body) if flip else body for body, flip in zip(bodies, flips, strict=True)))
    found = facing_outward(Membrane(np.asarray(mesh.vertices), np.asarray(mesh.faces, dtype=np.int32)))
    assert found.membrane.volume == pytest.approx(sum(body.volume for body in bodies))
    assert (found.turned, found.nested) == (sum(flips), 0)


def test_a_length_that_no_cell_has_is_an_error_that_names_the_cure(tmp_path: Path) -> None:
    folder = write(tmp_path / "metres", {f"t{k}.stl": ball((5.0 + k) * 1e-6) for k in range(3)})
    assert "--voxel 1e6 1e6 1e6 for metres" in text(run("validate", folder, status=1))
    assert "no sequence can be used" in text(run("import", folder, "--out", tmp_path / "out", status=1))
    (one,) = surveyed(folder, (1e6, 1e6, 1e6))
    assert one.is_usable
    assert np.allclose(one.volumes, [ball(5.0 + k).volume for k in range(3)], rtol=1e-4)
    huge = write(tmp_path / "huge", {f"t{k}.stl": ball(1e6) for k in range(3)})
    assert "--voxel 0.001 0.001 0.001 for nanometres" in text(run("validate", huge, status=1))
    with pytest.raises(DatasetError, match="1e6 1e6 1e6"):
        read_target([folder / "t0.stl"], micrometres=10.0)
    assert "1e6 1e6 1e6" in re.sub(r"[\s│]+", " ", run("validate", "--help").output)


@pytest.mark.parametrize("how", ["nan", "open", "empty", "flat", "cut off", "other vertices"])
@pytest.mark.parametrize("suffix", [".stl", ".ply", ".obj"])
def test_broken_meshes_are_findings_and_never_a_traceback(how: str, suffix: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "cell", {f"t{k}{suffix}": ball() for k in range(4)})
    bad, mesh = folder / f"t2{suffix}", ball()
    if how == "nan":
        mesh.vertices[3] = np.nan
    elif how == "open":
        mesh.update_faces(np.arange(len(mesh.faces)) > 4)
    elif how == "flat":
        mesh = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 0, 0]], [[0, 1, 2], [0, 1, 0]], process=False)
    content = mesh.export(file_type=suffix[1:])
    data = content.encode() if isinstance(content, str) else content
    if how == "cut off":
        data = data[: len(data) // 2]
    elif how == "empty":
        data = b""
    elif how == "other vertices" and suffix == ".obj":
        data += b"\nf 1 2 9999\n"
    bad.write_bytes(data)
    found = json_report(folder, tmp_path)
    if how != "other vertices":
        wrong = {finding["code"] for finding in found["sequences"][0]["findings"] if finding["severity"] == "error"}
        assert wrong & {"unreadable", "open", "empty", "nested", "bodies"}


def json_report(folder: Path, tmp_path: Path) -> dict[str, list[dict[str, list[dict[str, str]]]]]:
    done = CliRunner().invoke(cli, ["validate", str(folder), "--json", str(tmp_path / "report.json")])
    assert done.exit_code in (0, 1), (done.output, done.exception)
    report: dict[str, list[dict[str, list[dict[str, str]]]]] = json.loads((tmp_path / "report.json").read_text())
    return report


# ----------------------------------------------------------------------------------------------- the files of the cases


@pytest.mark.parametrize(
    ("case", "spacing", "volumes"),
    [
        (
            "05_time_order_of_names",
            None,
            [[457.3, 544.7, 642.5, 751.4, 872.0, 1004.8, 1150.4, 1309.5, 1482.6, 1670.3, 1873.3, 2092.0]],
        ),
        ("08_several_in_one_folder/cells", None, [[790.3, None, 1052.0], [1873.0, None, 2327.0]]),
        ("08_several_in_one_folder/formats", None, [[457.3, 544.7, 642.5]]),
        ("09_images_beside_masks", 1.0, [[123.0, 179.0, 257.0]]),
        ("10_ctc_dataset_root/Fluo-N3DH-XX", 1.0, [[None] * 4, [179.0] * 4]),
        ("11_ctc_unknown_parent/minus_one", 1.0, [[257.0] * 3] * 2),
        ("11_ctc_unknown_parent/mother_before_clip", 1.0, [[257.0] * 3] * 2),
        ("11_ctc_unknown_parent/two_sisters", 1.0, [[257.0] * 3] * 2),
        ("16_daughter_inside_out", None, [[457.3, None, 451.2, 451.2]]),
        ("18_mesh_in_metres", 1e6, [[457.3, 544.7, 642.5]]),
    ],
)
def test_files_as_labs_have_them(case: str, spacing: float | None, volumes: list[list[float | None]]) -> None:
    folder = CASES / case
    if not folder.is_dir():
        pytest.skip(f"no files of labs beside the repository ({case})")
    found = surveyed(folder, None if spacing is None else (spacing, spacing, spacing))
    assert len(found) == len(volumes)
    for one, expected in zip(found, volumes, strict=True):
        known = [k for k, volume in enumerate(expected) if volume is not None]
        assert len(one.volumes) == len(expected)
        assert np.allclose(one.volumes[known], [expected[k] for k in known], rtol=5e-4)
        assert one.is_usable
    if case.startswith("16"):
        assert np.allclose(found[0].centres[:, 0], 0.0, atol=0.2)
