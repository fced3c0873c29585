"""Label volumes as programs write them: scale, units, axes, order of planes, codecs and kinds of values."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from scipy.io import savemat
from typer.testing import CliRunner

from model.__main__ import cli
from model.errors import DatasetError
from model.fitting.fit_targets import read_target
from model.readers.open import open_recordings
from model.readers.recording import Calibration, Recording
from model.readers.survey import Surveyed, survey

CASES = Path(__file__).parents[3].parent / "shared" / "cases"
VOXEL = ("--voxel", "1", "1", "1")
SIDES = ((4, 5, 5), (5, 5, 6), (6, 7, 6), (7, 7, 8))  # of the growing block: each frame has its own volume
VOLUMES = [float(np.prod(sides)) for sides in SIDES]


def movie(value: float = 1, dtype: str = "uint8") -> NDArray[Any]:
    """A growing block, (t, z, y, x)."""
    volume = np.zeros((len(SIDES), 12, 13, 14), dtype=dtype)
    for frame, (nz, ny, nx) in enumerate(SIDES):
        volume[frame, 2 : 2 + nz, 2 : 2 + ny, 2 : 2 + nx] = value
    return volume


def two_cells(one: float = 1, other: float = 2, dtype: str = "uint8") -> NDArray[Any]:
    """Two blocks that touch, of 150 and 180 voxels, in all of 4 frames."""
    volume = np.zeros((4, 10, 10, 16), dtype=dtype)
    volume[:, 2:7, 2:8, 2:7] = one
    volume[:, 2:7, 2:8, 7:13] = other
    return volume


def write_imagej(
    path: Path, volume: NDArray[Any], lines: dict[str, object], resolution: tuple[float, float] = (5.0, 5.0)
) -> Path:
    """Write a hyperstack with a description of exactly these lines, as ImageJ writes them."""
    frames, slices = volume.shape[:2]
    head = {"ImageJ": "1.54f", "images": frames * slices, "slices": slices, "frames": frames, "hyperstack": "true"}
    description = "".join(f"{key}={value}\n" for key, value in {**head, "mode": "grayscale", **lines}.items())
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            volume.reshape(-1, *volume.shape[2:]), contiguous=True, photometric="minisblack",
            resolution=resolution, resolutionunit="NONE", description=description, metadata=None,
        )  # fmt: skip
    return path


def opened(path: Path, given: Calibration | None = None) -> Recording:
    (recording,) = open_recordings(path, given=given or Calibration())
    return recording


def looked_at(path: Path, given: Calibration | None = None) -> list[Surveyed]:
    return survey(open_recordings(path, given=given or Calibration((1.0, 1.0, 1.0))))


def volumes(path: Path) -> list[float]:
    (one,) = looked_at(path)
    return [float(volume) for volume in one.volumes]


def warnings(found: list[Surveyed]) -> set[str]:
    return {finding.code for one in found for finding in one.findings if finding.severity == "warning"}


def run(*arguments: str | Path, status: int = 0) -> str:
    done = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert done.exit_code == status, (done.output, done.exception)
    return re.sub(r"[\s│]+", " ", done.output)


# ---------------------------------------------------------------------------------------------------------------- scale


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        (r"\u00B5m", 1.0), (r"\u00b5m", 1.0), ("micron", 1.0), ("Micron", 1.0), ("microns", 1.0), ("UM", 1.0),
        ("micrometers", 1.0), ("Micrometres", 1.0), ("nm", 1e-3), ("mm", 1e3), ("inch", 25400.0),
    ],
)  # fmt: skip
def test_units_of_length_are_read_as_people_and_imagej_write_them(unit: str, factor: float, tmp_path: Path) -> None:
    path = write_imagej(tmp_path / "cells.tif", movie(), {"unit": unit, "spacing": 0.5})
    assert opened(path).calibration.spacing == pytest.approx((0.2 * factor, 0.2 * factor, 0.5 * factor))


@pytest.mark.parametrize("unit", ["furlong", "Mm"])
def test_an_unknown_unit_of_length_gives_no_voxel_and_is_named(unit: str, tmp_path: Path) -> None:
    path = write_imagej(tmp_path / "cells.tif", movie(), {"unit": unit, "spacing": 0.5})
    output = run("validate", path, status=1)
    assert unit in output
    assert "give --voxel X Y Z" in output
    assert unit not in run("validate", path, *VOXEL)  # what the user states leaves no warning


def test_a_missing_distance_of_slices_is_one_unit_and_a_warning_says_so(tmp_path: Path) -> None:
    path = write_imagej(tmp_path / "cells.tif", movie(), {"unit": "micron"})
    assert opened(path).calibration.spacing == pytest.approx((0.2, 0.2, 1.0))
    output = run("validate", path)
    assert "z_step" in output
    assert "0.2 × 0.2 × 1 µm" in output
    assert warnings(looked_at(path, Calibration((0.2, 0.2, 1.0)))).isdisjoint({"z_step"})


def test_a_missing_distance_of_slices_that_changes_nothing_is_no_warning(tmp_path: Path) -> None:
    path = write_imagej(tmp_path / "cells.tif", movie(), {"unit": "micron"}, resolution=(1.0, 1.0))
    assert opened(path).calibration.warnings == ()


@pytest.mark.parametrize(
    ("unit", "minutes"),
    [
        ("sec", 1 / 60), ("secs", 1 / 60), ("Seconds", 1 / 60), ("s", 1 / 60), ("min", 1), ("mins", 1), ("minute", 1),
        ("minutes", 1), ("h", 60), ("hr", 60), ("hrs", 60), ("hour", 60), ("hours", 60), ("d", 1440), ("day", 1440),
        ("days", 1440), ("ms", 1 / 60_000), ("msec", 1 / 60_000), (r"\u00B5s", 1 / 6e7), ("us", 1 / 6e7),
    ],
)  # fmt: skip
def test_units_of_time_are_read_as_people_write_them(unit: str, minutes: float, tmp_path: Path) -> None:
    lines = {"unit": "um", "spacing": 0.2, "finterval": 3, "tunit": unit}
    path = write_imagej(tmp_path / "cells.tif", movie(), lines)
    assert opened(path).calibration.minutes == pytest.approx(3 * minutes)


def test_seconds_are_meant_where_imagej_leaves_the_unit_out(tmp_path: Path) -> None:
    path = write_imagej(tmp_path / "cells.tif", movie(), {"unit": "um", "spacing": 0.2, "finterval": 90})
    assert opened(path).calibration.minutes == pytest.approx(1.5)


@pytest.mark.parametrize("unit", ["frames", "m", "Ms"])
def test_an_unknown_unit_of_time_is_unknown_and_named(unit: str, tmp_path: Path) -> None:
    lines = {"unit": "um", "spacing": 0.2, "finterval": 3, "tunit": unit}
    path = write_imagej(tmp_path / "cells.tif", movie(), lines)
    assert opened(path).calibration.minutes is None
    output = run("import", path, "--out", tmp_path / "out", "--points", "1024")
    assert f"time_unit: the file says 3 '{unit}' between frames" in output
    assert "the minutes between frames are not known" in output


def test_ome_intervals_have_their_unit_and_reach_the_data_set(tmp_path: Path) -> None:
    path = tmp_path / "cells.ome.tif"
    scale = {f"PhysicalSize{axis}": 0.2 for axis in "XYZ"}
    tifffile.imwrite(path, movie(), metadata={"axes": "TZYX", **scale, "TimeIncrement": 1.0, "TimeIncrementUnit": "d"})
    run("import", path, "--out", tmp_path / "out", "--points", "1024")
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["minutes"] == pytest.approx(3 * 1440)


# ----------------------------------------------------------------------------------------------- axes, planes and files


def ome_description(order: str, planes: list[tuple[int, int]], files: list[str] | None = None) -> str:
    """OME-XML of the movie; ``planes`` are (t, z) of the pages in their order."""
    nt, nz, ny, nx = movie().shape
    data = []
    for page, (t, z) in enumerate(planes):
        name = f'<UUID FileName="{files[t]}">urn:uuid:0000000{t}-0000-0000-0000-000000000000</UUID>' if files else ""
        ifd = z if files else page
        data.append(f'<TiffData IFD="{ifd}" PlaneCount="1" FirstT="{t}" FirstZ="{z}" FirstC="0">{name}</TiffData>')
    return (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        '{uuid}><Image ID="Image:0"><Pixels ID="Pixels:0" '
        f'DimensionOrder="{order}" Type="uint8" SizeX="{nx}" SizeY="{ny}" SizeZ="{nz}" SizeC="1" SizeT="{nt}" '
        'PhysicalSizeX="0.2" PhysicalSizeY="0.2" PhysicalSizeZ="0.5">'
        '<Channel ID="Channel:0:0" SamplesPerPixel="1"/>' + "".join(data) + "</Pixels></Image></OME>"
    )


def write_planes(path: Path, planes: list[tuple[int, int]], description: str, compression: str | None = None) -> Path:
    volume = movie()
    with tifffile.TiffWriter(path) as tiff:
        for number, (t, z) in enumerate(planes):
            tiff.write(
                volume[t, z], description=description.encode() if number == 0 else None, metadata=None,
                contiguous=False, compression=compression, photometric="minisblack",
            )  # fmt: skip
    return path


def in_order(order: str) -> list[tuple[int, int]]:
    nt, nz = movie().shape[:2]
    plain = [(t, z) for t in range(nt) for z in range(nz)]
    return {
        "plain": plain,
        "time reversed": [(nt - 1 - t, z) for t, z in plain],
        "slices outside": [(t, z) for z in range(nz) for t in range(nt)],
    }[order]


@pytest.mark.parametrize("order", ["plain", "time reversed", "slices outside"])
@pytest.mark.parametrize("dimensions", ["XYZTC", "XYTZC", "XYCZT"])
def test_the_description_of_ome_says_which_page_is_which_plane(order: str, dimensions: str, tmp_path: Path) -> None:
    planes = in_order(order)
    description = ome_description(dimensions, planes).format(uuid="")
    path = write_planes(tmp_path / "cells.ome.tif", planes, description, compression="zlib")
    assert volumes_um3(path) == pytest.approx([0.02 * volume for volume in VOLUMES])


def volumes_um3(path: Path) -> list[float]:
    (one,) = looked_at(path, Calibration())
    return [float(volume) for volume in one.volumes]


@pytest.fixture
def several_files(tmp_path: Path) -> Path:
    """One OME-TIFF of four files, a frame a file."""
    folder = tmp_path / "several"
    folder.mkdir()
    plain, names = in_order("plain"), [f"mv_T{t}.ome.tif" for t in range(len(SIDES))]
    for t, name in enumerate(names):
        uuid = f'UUID="urn:uuid:0000000{t}-0000-0000-0000-000000000000"'
        write_planes(
            folder / name, [plane for plane in plain if plane[0] == t],
            ome_description("XYZTC", plain, names).format(uuid=uuid),
        )  # fmt: skip
    return folder


@pytest.mark.parametrize("source", [".", "mv_T0.ome.tif", "mv_T2.ome.tif"])
def test_an_ome_tiff_of_several_files_is_one_sequence(source: str, several_files: Path) -> None:
    assert volumes_um3(several_files / source) == pytest.approx([0.02 * volume for volume in VOLUMES])
    assert "in 4 files" in run("validate", several_files / source)


def test_a_file_of_an_ome_tiff_that_is_missing_is_an_error_of_its_frame(several_files: Path) -> None:
    (several_files / "mv_T2.ome.tif").unlink()
    (one,) = looked_at(several_files)
    findings = {finding.code: finding for finding in one.findings}
    assert findings["unreadable"].frames == [2]
    assert "are all files of the OME-TIFF there" in findings["unreadable"].message


def test_axes_in_another_order_are_transposed_and_told(tmp_path: Path) -> None:
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, movie().transpose(1, 0, 2, 3), metadata={"axes": "ZTYX"}, photometric="minisblack")
    assert volumes(path) == VOLUMES
    assert "axes: ZTYX, read as TZYX" in run("validate", path, *VOXEL)


def test_axes_without_names_are_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, movie(), photometric="minisblack")
    assert volumes(path) == VOLUMES
    assert "axes" in warnings(looked_at(path))


def test_only_the_first_of_several_images_is_read_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "cells.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(movie(), metadata={"axes": "TZYX"}, photometric="minisblack")
        tiff.write(movie()[:, ::2, ::2, ::2], metadata={"axes": "TZYX"}, photometric="minisblack")
    assert volumes(path) == VOLUMES
    assert "images" in warnings(looked_at(path))


@pytest.mark.parametrize("compression", ["lzw", "zstd", "zlib", "packbits", "lzma"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_the_usual_compressions_are_read(compression: str, tile: tuple[int, int] | None, tmp_path: Path) -> None:
    path = tmp_path / "cells.tif"
    tifffile.imwrite(
        path, movie(), compression=compression, tile=tile, metadata={"axes": "TZYX"}, photometric="minisblack"
    )
    assert volumes(path) == VOLUMES


# --------------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_whole_numbers_in_floating_point_are_labels(dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, two_cells(dtype=dtype), metadata={"axes": "TZYX"}, photometric="minisblack")
    found = looked_at(path)
    assert [(one.sequence.labels[0], one.volumes[0]) for one in found] == [((1,), 150.0), ((2,), 180.0)]


@pytest.mark.parametrize("value", [0.35, float("nan"), float("inf")])
def test_a_probability_map_is_refused(value: float, tmp_path: Path) -> None:
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, movie(value, "float32"), metadata={"axes": "TZYX"}, photometric="minisblack")
    output = run("validate", path, *VOXEL, status=1)
    assert "labels are whole numbers" in output
    assert f"{value:.6g}" in output


def test_labels_that_floating_point_has_rounded_are_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, movie(2**24 + 2, "float32"), metadata={"axes": "TZYX"}, photometric="minisblack")
    assert "rounded" in warnings(looked_at(path))


def test_labels_are_no_mask_though_only_the_middle_frames_show_the_second(tmp_path: Path) -> None:
    for one, other in ((1, 2), (255, 7)):
        volume = two_cells(one, other)
        volume[[0, -1]] = np.where(volume[[0, -1]] == other, 0, volume[[0, -1]])
        path = tmp_path / f"cells{one}.tif"
        tifffile.imwrite(path, volume, metadata={"axes": "TZYX"}, photometric="minisblack")
        sizes = {one.sequence.labels[0][0]: one.volumes.tolist() for one in looked_at(path)}
        assert sizes == {one: [150.0] * 4, other: [180.0] * 2}


@pytest.mark.parametrize(
    ("one", "other", "dtype"),
    [
        (1, 2**32 + 1, "int64"), (3_000_000_001, 200_000_001, "uint32"), (2**63 + 5, 2**64 - 1, "uint64"),
        (65_535, 65_534, "uint16"),
    ],
)  # fmt: skip
def test_large_labels_keep_their_values(one: int, other: int, dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, two_cells(one, other, dtype), metadata={"axes": "TZYX"}, photometric="minisblack")
    found = {sequence.sequence.labels[0][0]: sequence.volumes[0] for sequence in looked_at(path)}
    assert found == {one: 150.0, other: 180.0}
    membranes = opened(path, Calibration((1.0, 1.0, 1.0))).membranes(0, [one, other])
    assert [membrane.centroid[0] for membrane in membranes] == pytest.approx([4.0, 9.5], abs=0.01)


def test_negative_labels_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, movie(-1, "int16"), metadata={"axes": "TZYX"}, photometric="minisblack")
    assert "holds -1; labels are positive" in run("validate", path, *VOXEL, status=1)


# ----------------------------------------------------------------------------------------------------------- NumPy, MAT


@pytest.mark.parametrize("dtype", ["uint8", "bool", "int64", "uint16"])
def test_integers_in_numpy_files_are_labels(dtype: str, tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", movie(1, dtype))
    assert volumes(tmp_path / "labels.npy") == VOLUMES
    assert "axes" in warnings(looked_at(tmp_path / "labels.npy"))


def test_a_folder_of_numpy_labels_is_a_frame_a_file(tmp_path: Path) -> None:
    for frame, volume in enumerate(movie()):
        np.save(tmp_path / f"t{frame}.npy", volume)
    assert volumes(tmp_path) == VOLUMES


def test_labels_saved_as_floating_point_are_not_called_empty(tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", movie(1, "float32"))
    output = run("validate", tmp_path / "labels.npy", *VOXEL, status=1)
    assert "labels, not distances; save them as integers" in output


def arms() -> NDArray[np.bool_]:
    """Three unequal arms, (x, y, z): a shape that its mirror image is not."""
    inside = np.zeros((22, 18, 14), dtype=bool)
    inside[4:18, 4:8, 4:8] = inside[4:8, 4:13, 4:8] = inside[4:8, 4:8, 4:10] = True
    return inside


@pytest.mark.parametrize("suffix", [".mat", ".h5", ".npy"])
def test_distances_of_images_lie_as_the_labels_of_the_same_images(suffix: str, tmp_path: Path) -> None:
    inside = np.stack([arms()] * 3)
    distances = np.where(inside, -0.5, 0.5).astype(np.float32)  # (t, x, y, z)
    images = distances.transpose(0, 2, 1, 3)  # the first axis of an image is its row
    path = tmp_path / f"cell{suffix}"
    if suffix == ".mat":
        savemat(path, {"sdf_vid": images})
    elif suffix == ".h5":
        h5py = pytest.importorskip("h5py", reason="h5py is not installed")
        with h5py.File(path, "w") as file:
            file["sdf_vid"] = images.transpose(3, 2, 1, 0)  # as MATLAB stores it
    else:
        np.save(path, distances)
    tifffile.imwrite(
        tmp_path / "cell.tif", inside.transpose(0, 3, 2, 1).astype(np.uint8), metadata={"axes": "TZYX"},
        photometric="minisblack",
    )  # fmt: skip
    given = Calibration((1.0, 2.0, 3.0))
    field, labels = opened(path, given), opened(tmp_path / "cell.tif", given)
    assert field.grid_shape == labels.grid_shape == (22, 18, 14)
    (one,), (other,) = field.observations(0), labels.observations(0)
    assert np.allclose(one.high - one.low, [14, 18, 18])
    assert np.allclose(one.low, other.low)
    assert np.allclose(one.high, other.high)


# --------------------------------------------------------------------------------------------------------- what is told


def test_a_fit_hears_of_warnings_too(tmp_path: Path) -> None:
    path = write_imagej(tmp_path / "cells.tif", movie(), {"unit": "micron"})
    warnings: list[str] = []
    assert len(read_target([path], micrometres=1.0, on_warning=warnings.append)) == len(SIDES)
    assert len(warnings) == 1
    assert "0.2 × 0.2 × 1 µm" in warnings[0]
    read_target([path], micrometres=1.0, voxel=(0.2, 0.2, 0.5), on_warning=warnings.append)
    assert len(warnings) == 1


def test_what_was_taken_is_printed_and_written(tmp_path: Path) -> None:
    lines = {"unit": r"\u00B5m", "spacing": 0.5, "finterval": 2, "tunit": "hours"}
    path = write_imagej(tmp_path / "cells.tif", two_cells(), lines)
    for command in (("validate", path, "--json", tmp_path / "found.json"), ("import", path, "--out", tmp_path / "out")):
        output = run(*command)
        assert "taken from cells" in output
        assert "axes: TZYX" in output
        assert "voxel: 0.2 × 0.2 × 0.5 µm along x, y, z (ImageJ, unit µm)" in output
        assert "interval: 120 minutes (ImageJ, 2 hours)" in output
        assert "labels: 1, 2 (integers of 8 bits, each a cell)" in output
    (taken,) = json.loads((tmp_path / "found.json").read_text())["taken"]
    assert taken["name"] == "cells"
    assert taken["interval"].startswith("120 minutes")
    assert "(--voxel)" in run("validate", path, *VOXEL)


# --------------------------------------------------------------------------------------------------------------- faults


def _truncated(path: Path) -> None:
    tifffile.imwrite(path, movie(), compression="zlib", metadata={"axes": "TZYX"}, photometric="minisblack")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _cut_data(path: Path) -> None:
    write_imagej(path, movie(), {"unit": "um", "spacing": 0.5})
    path.write_bytes(path.read_bytes()[:4000])


def _corrupt_strip(path: Path) -> None:
    tifffile.imwrite(path, movie(), compression="lzw", metadata={"axes": "TZYX"}, photometric="minisblack")
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages[14].dataoffsets[0], tiff.pages[14].databytecounts[0]
    raw = bytearray(path.read_bytes())
    raw[offset : offset + count] = b"\xff" * count
    path.write_bytes(raw)


def _unknown_codec(path: Path) -> None:
    tifffile.imwrite(path, movie(), compression="lzw", metadata={"axes": "TZYX"}, photometric="minisblack")
    raw = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        places = [page.aspage().tags["Compression"].valueoffset for page in tiff.pages]
    for place in places:
        raw[place : place + 2] = (33_333).to_bytes(2, "little")
    path.write_bytes(raw)


def _huge(path: Path) -> None:
    write_imagej(path, movie(), {"unit": "um", "spacing": 0.5})
    raw = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        places = [tiff.pages.first.tags[name].valueoffset for name in ("ImageWidth", "ImageLength")]
    for place in places:
        raw[place : place + 2] = (60_000).to_bytes(2, "little")
    path.write_bytes(raw)


def _short_array(path: Path) -> None:
    np.save(path, movie())
    path.write_bytes(path.read_bytes()[:500])


def _cut_mat(path: Path) -> None:
    with path.open("wb") as file:
        savemat(file, {"sdf_vid": movie(1, "float32")})
    path.write_bytes(path.read_bytes()[:900])


def _huge_array(path: Path) -> None:
    np.save(path, movie())
    path.write_bytes(path.read_bytes().replace(b"(4, 12, 13, 14)", b"(9999999, 99, 99)"[:9] + b"9,9,9)"))


FAULTS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "truncated": ("a.tif", _truncated),
    "data cut": ("a.tif", _cut_data),
    "corrupt strip": ("a.tif", _corrupt_strip),
    "unknown codec": ("a.tif", _unknown_codec),
    "huge": ("a.tif", _huge),
    "nothing": ("a.tif", lambda path: path.write_bytes(b"")),
    "header only": ("a.tif", lambda path: path.write_bytes(b"II*\0\x08\0\0\0")),
    "loop": ("a.tif", lambda path: path.write_bytes(b"II*\0\x08\0\0\0\0\0\x08\0\0\0")),
    "colour": ("a.tif", lambda path: tifffile.imwrite(path, np.zeros((4, 8, 8, 3), "u1"), photometric="rgb")),
    "flat": ("a.tif", lambda path: tifffile.imwrite(path, np.ones((8, 8), "u1"))),
    "complex": ("a.tif", lambda path: tifffile.imwrite(path, movie(1, "complex64"), metadata={"axes": "TZYX"})),
    "jpeg": (
        "a.tif",
        lambda path: tifffile.imwrite(path, movie(200), compression="jpeg", photometric="minisblack", tile=(16, 16)),
    ),
    "bad ome": (
        "a.ome.tif",
        lambda path: tifffile.imwrite(path, movie()[0], description="<?xml version='1.0'?><OME><x></OME>",
                                      metadata=None, photometric="minisblack"),
    ),
    "pickle": ("a.npy", lambda path: path.write_bytes(b"\x93NUMPY\x01\x00v\x00" + pickle.dumps({"masks": 1}))),
    "objects": ("a.npy", lambda path: np.save(path, np.array([{"masks": 1}], dtype=object), allow_pickle=True)),
    "scalar": ("a.npy", lambda path: np.save(path, np.float32(3))),
    "one axis": ("a.npy", lambda path: np.save(path, np.arange(5))),
    "no frames": ("a.npy", lambda path: np.save(path, np.zeros((0, 4, 4, 4), "u1"))),
    "complex array": ("a.npy", lambda path: np.save(path, movie(1, "complex64"))),
    "strings": ("a.npy", lambda path: np.save(path, np.array([["a"]]))),
    "nan": ("a.npy", lambda path: np.save(path, np.full((3, 8, 8, 8), np.nan, "f4"))),
    "short array": ("a.npy", _short_array),
    "huge array": ("a.npy", _huge_array),
    "mat text": ("a.mat", lambda path: savemat(path, {"sdf_vid": "words"})),
    "mat cell": ("a.mat", lambda path: savemat(path, {"sdf_vid": {"a": 1}})),
    "mat integers": ("a.mat", lambda path: savemat(path, {"sdf_vid": movie()})),
    "mat other": ("a.mat", lambda path: savemat(path, {"other": movie()})),
    "mat noise": ("a.mat", lambda path: path.write_bytes(bytes(range(256)) * 4)),
    "mat cut": ("a.MAT", _cut_mat),
    "h5 noise": ("a.h5", lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\xff" * 200)),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_file_is_a_sentence_and_status_1(fault: str, tmp_path: Path) -> None:
    name, write = FAULTS[fault]
    write(tmp_path / name)
    done = CliRunner().invoke(cli, ["validate", str(tmp_path / name), *VOXEL])
    assert done.exit_code == 1
    if isinstance(done.exception, SystemExit):
        assert "cannot be trained on as they are" in re.sub(r"\s+", " ", done.output)
    else:
        assert isinstance(done.exception, DatasetError), repr(done.exception)
        assert "\n" not in str(done.exception)
        assert name in str(done.exception)
    assert "Traceback" not in done.output


def test_an_hdf5_group_of_that_name_is_refused(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_group("sdf_vid")
    with pytest.raises(DatasetError, match="holds no dataset sdf_vid"):
        open_recordings(tmp_path / "a.h5", given=Calibration())


# ------------------------------------------------------------------------------------------ the files of the laboratory

VOXELS, MICROMETRES = [123.0, 179.0, 257.0, 389.0], [2.46, 3.58, 5.14, 7.78]
EXPECTED: dict[str, tuple[Calibration, dict[int, list[float]]]] = {
    "01_imagej_unit_escaped_micro/cells.tif": (Calibration(), {1: MICROMETRES}),
    "02_imagej_z_step_of_1_um/cells.tif": (Calibration(), {1: [4.92, 7.16, 10.28, 15.56]}),
    "03_float_labels/cells.tif": (Calibration((1, 1, 1)), {1: [257.0] * 3, 2: [256.0] * 3}),
    "04a_lzw/cells.tif": (Calibration((1, 1, 1)), {1: VOXELS}),
    "04b_zstd/cells.tif": (Calibration((1, 1, 1)), {1: VOXELS}),
    "06_ome_multi_file": (Calibration(), {1: MICROMETRES}),
    "06_ome_multi_file/mv_T0.ome.tif": (Calibration(), {1: MICROMETRES}),
    "07_ome_plane_order/time_reversed.ome.tif": (Calibration(), {1: MICROMETRES}),
    "07_ome_plane_order/z_outer.ome.tif": (Calibration(), {1: MICROMETRES}),
    "07_ome_plane_order/xytzc.ome.tif": (Calibration(), {1: MICROMETRES}),
    "12_labels_taken_for_a_mask/cells.tif": (Calibration((1, 1, 1)), {1: [257.0] * 5, 2: [256.0] * 3}),
    "14_large_ids/two_cells_int64.tif": (Calibration((1, 1, 1)), {1: [257.0] * 3, 4294967297: [257.0] * 3}),
    "14_large_ids/uint32_3e9.tif": (Calibration((1, 1, 1)), {3_000_000_001: [257.0] * 3}),
    "14_large_ids/uint32_2e8.tif": (Calibration((1, 1, 1)), {200_000_001: [257.0] * 3}),
    "15_labels_as_npy/labels.npy": (Calibration((1, 1, 1)), {1: VOXELS}),
    "15_labels_as_npy/mask.npy": (Calibration((1, 1, 1)), {1: VOXELS}),
}
INTERVALS = {"minutes.tif": 2.0, "hours.tif": 60.0, "msec.tif": 1.0, "day.ome.tif": 1440.0}


@pytest.mark.parametrize("case", EXPECTED)
def test_the_files_of_the_laboratory_give_the_right_volumes(case: str) -> None:
    if not (CASES / case).exists():
        pytest.skip(f"no files of laboratories beside the repository ({case})")
    given, expected = EXPECTED[case]
    found = {one.sequence.labels[0][0]: one.volumes.tolist() for one in looked_at(CASES / case, given)}
    assert found == {label: pytest.approx(sizes) for label, sizes in expected.items()}


@pytest.mark.parametrize("name", INTERVALS)
def test_the_files_of_the_laboratory_give_the_right_intervals(name: str) -> None:
    if not (path := CASES / "13_time_units" / name).exists():
        pytest.skip(f"no files of laboratories beside the repository ({name})")
    assert opened(path).calibration.minutes == pytest.approx(INTERVALS[name])


def test_the_cell_of_the_laboratory_lies_alike_as_labels_and_as_distances() -> None:
    if not (folder := CASES / "24_sdf_vid_mirrored").exists():
        pytest.skip("no files of laboratories beside the repository (24_sdf_vid_mirrored)")
    for name, tolerance in (("cell.tif", 0.1), ("cell.mat", 0.7)):
        (membrane,) = opened(folder / name, Calibration((1.0, 1.0, 1.0))).membranes(0, [1])
        extent = membrane.vertices.max(axis=0) - membrane.vertices.min(axis=0)
        assert extent == pytest.approx([14.5, 9.5, 6.6], abs=tolerance)
