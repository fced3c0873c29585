"""A sequence in many files, sent as one archive, is to the readers of cells what the folder was."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import trimesh
from hostile.corpus_archives import CELL, TRACKS, frames, tarred, zip64_end, zipped

from model.errors import UploadError
from model.readers.open import open_recordings
from model.readers.recording import Calibration
from model.upload_checks.archives import FILES_MAX, read_archive
from model.upload_checks.file_set import SAMPLES_MAX
from worker.uploads.sandbox import kind_of
from worker.uploads.store import Upload, UploadRules, Uploads

OWNER = "ada"


def kept(place: Path, name: str, content: bytes) -> tuple[Upload, Path]:
    """Upload an archive; return it, and the folder that readers get."""
    uploads = Uploads(place / "data", rules=UploadRules(reserve_bytes=0))
    with uploads.arriving(OWNER) as arrived:
        arrived.write(content)
        arrived.close()
        kind = kind_of(name)
        upload, _ = uploads.keep(OWNER, arrived, name=name, kind=kind, facts=arrived.inspect(kind))
    shelf = place / "shelf"
    shelf.mkdir()
    return upload, uploads.lay_out(OWNER, name, shelf)


def volume(label: int, at: int = 3, kind: Any = np.uint16) -> Any:
    cell = np.zeros((6, 14, 13), kind)
    cell[2:4, at : at + 4, 3:8] = label
    return cell


def challenge(folder: Path, *, large: bool = False) -> None:
    """A data set of the Cell Tracking Challenge: images, markers, masks of slices, and silver masks."""
    kind, first, second = (np.uint64, 70_001, 2**40) if large else (np.uint16, 1, 2)
    rng = np.random.default_rng(3)
    for name in ("01", "01_GT/TRA", "01_GT/SEG", "01_ST/SEG"):
        (folder / name).mkdir(parents=True)
    for frame in range(3):
        labels = volume(first, kind=kind) if frame < 2 else volume(second, at=4, kind=kind)
        tifffile.imwrite(folder / f"01_ST/SEG/man_seg{frame:03}.tif", labels, compression="lzw")
        tifffile.imwrite(folder / f"01_GT/TRA/man_track{frame:03}.tif", labels, compression="lzw")
        tifffile.imwrite(folder / f"01/t{frame:03}.tif", rng.integers(1, 255, (6, 14, 13), np.uint8))
    tifffile.imwrite(folder / "01_GT/SEG/man_seg_000_003.tif", labels[3])
    (folder / "01_GT/TRA/man_track.txt").write_text(f"{first} 0 1 0\n{second} 2 2 {first}\n")


def stacks(folder: Path) -> None:
    metadata = {"axes": "ZYX", "unit": "um", "spacing": 0.5}
    for frame in range(12):
        tifffile.imwrite(
            folder / f"cell_t{frame}.tif", volume(1, at=frame % 5), imagej=True, resolution=(4, 4), metadata=metadata
        )


def meshes(folder: Path) -> None:
    for frame in range(4):
        trimesh.creation.icosphere(subdivisions=1, radius=3.0 + frame).export(folder / f"t{frame}.stl")


def one_folder_a_cell(folder: Path) -> None:
    for cell in "ab":
        (folder / cell).mkdir()
        stacks(folder / cell)


def packed(folder: Path, ending: str) -> bytes:
    """Pack a folder as users do."""
    file = io.BytesIO()
    if ending == "zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(folder.rglob("*")):
                archive.write(path, path.relative_to(folder.parent))
    else:
        with tarfile.open(fileobj=file, mode="w" if ending == "tar" else "w:gz") as tar:
            tar.add(folder, folder.name)
    return file.getvalue()


def test_what_packs_well_is_unpacked_to_its_last_byte(tmp_path: Path) -> None:
    """zlib may take all of its input and still hold bytes."""
    content = bytes(2**26)
    path = tmp_path / "zeros.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.tif", content)
    with path.open("rb") as file:
        (member,) = read_archive(file.fileno(), "zip")
        assert member.read() == content


@pytest.mark.parametrize("make", [challenge, stacks, meshes, one_folder_a_cell])
@pytest.mark.parametrize("ending", ["zip", "tar", "tar.gz"])
def test_readers_find_in_an_archive_what_they_find_in_the_folder(
    tmp_path: Path, make: Callable[[Path], None], ending: str
) -> None:
    folder = tmp_path / "cells"
    folder.mkdir()
    make(folder)
    _, shown = kept(tmp_path, f"cells.{ending}", packed(folder, ending))
    expected = open_recordings(folder, given=Calibration())
    found = open_recordings(shown, given=Calibration())
    assert len(found) == len(expected) == (2 if make is one_folder_a_cell else 1)
    for one, other in zip(found, expected, strict=True):
        assert one.name.endswith(other.name)
        assert (one.frames, one.calibration, one.tracks) == (other.frames, other.calibration, other.tracks)
        for frame in one.frames:
            ours, theirs = one.observations(frame), other.observations(frame)
            assert [(seen.label, seen.volume, seen.bodies) for seen in ours] == [
                (seen.label, seen.volume, seen.bodies) for seen in theirs
            ]


def test_labels_are_renumbered_in_all_files_and_tracks_together(tmp_path: Path) -> None:
    folder = tmp_path / "cells"
    folder.mkdir()
    challenge(folder, large=True)
    upload, shown = kept(tmp_path, "cells.zip", packed(folder, "zip"))
    assert upload.facts["renumbered"] == {"70001": 1, str(2**40): 2}
    assert (upload.facts["labels"], upload.facts["largest_label"]) == (2, 2**40)
    (recording,) = open_recordings(shown, given=Calibration())
    assert [(track.label, track.parent) for track in recording.tracks or []] == [(1, 0), (2, 1)]
    assert [[seen.label for seen in recording.observations(frame)] for frame in recording.frames] == [[1], [1], [2]]
    assert all(tifffile.imread(path).max() <= 2 for path in shown.rglob("*.tif"))


def test_facts_say_what_is_kept_and_what_is_not(tmp_path: Path) -> None:
    files = [*frames(), ("man_track.txt", TRACKS), ("README.md", b"x"), (".DS_Store", b"x"), ("__MACOSX/._t", b"x")]
    upload, shown = kept(tmp_path, "cells.zip", zipped(files))
    assert upload.facts == {
        "files": 4, "volumes": 3, "frames": 3, "surfaces": 0, "triangles": 0, "tracks": 2, "labels": 1,
        "largest_label": 1, "voxel": [0.5, 0.5, 0.5], "left_out": ["README.md"], "notes": ["1 file is not read"],
    }  # fmt: skip
    assert sorted(path.name for path in shown.iterdir()) == ["man_track.txt", "t000.tif", "t001.tif", "t002.tif"]
    assert (shown / "man_track.txt").read_bytes() == TRACKS


@pytest.mark.parametrize("tool", ["zip", "tar", "tar of the folder", "tar, posix", "tar, ustar"])
def test_archives_of_common_programs_are_read(tmp_path: Path, tool: str) -> None:
    if shutil.which(tool[:3]) is None:
        pytest.skip(f"{tool[:3]} is not installed")
    folder = tmp_path / "cells"
    folder.mkdir()
    stacks(folder)
    target = tmp_path / ("cells.zip" if tool == "zip" else "cells.tgz")
    command = {
        "zip": ["zip", "-qr", target, "cells"], "tar": ["tar", "-czf", target, "cells"],
        "tar of the folder": ["tar", "-C", folder, "-czf", target, "."],
        "tar, posix": ["tar", "--format=posix", "-czf", target, "cells"],
        "tar, ustar": ["tar", "--format=ustar", "-czf", target, "cells"],
    }[tool]  # fmt: skip
    subprocess.run([str(word) for word in command], cwd=tmp_path, check=True)
    assert kept(tmp_path, target.name, target.read_bytes())[0].facts["volumes"] == 12


class _Pipe(io.RawIOBase):
    """A file in which nobody can go back, so that sizes follow the bytes."""

    def __init__(self) -> None:
        self.content = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, part: Any) -> int:
        self.content += part
        return len(part)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("streamed", [False, True])
def test_zips_that_were_streamed_and_zip64_are_read(tmp_path: Path, wide: bool, streamed: bool) -> None:
    file: Any = _Pipe() if streamed else io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in frames():
            with archive.open(name, "w", force_zip64=wide) as entry:
                entry.write(content)
    content = bytes(file.content) if streamed else file.getvalue()
    assert kept(tmp_path, "cells.zip", content)[0].facts["volumes"] == 3


def test_the_end_of_zip64_is_read(tmp_path: Path) -> None:
    assert kept(tmp_path, "cells.zip", zip64_end())[0].facts["volumes"] == 1


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_are_read(tmp_path: Path, form: int) -> None:
    name = f"{'a' * 90}/{'b' * 90}.tif"
    _, shown = kept(tmp_path, "cells.tar", tarred([(name, CELL)], form=form))
    assert (shown / name).is_file()


def test_as_many_files_as_are_allowed_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(zipped((f"{number}.txt", b"") for number in range(FILES_MAX)))
    with path.open("rb") as file:
        assert len(list(read_archive(file.fileno(), "zip"))) == FILES_MAX


def test_two_formats_of_one_frame_are_one_frame(tmp_path: Path) -> None:
    files = [*frames(ending="stl"), ("t000.ply", _ply())]
    upload, shown = kept(tmp_path, "cells.zip", zipped(files))
    assert upload.facts["left_out"] == ["t000.ply"]
    assert sorted(path.name for path in shown.iterdir()) == ["t000.ply", "t001.ply", "t002.ply"]


def _ply() -> bytes:
    content: bytes = trimesh.creation.box().export(file_type="ply")
    return content


def test_samples_are_counted_over_all_files(tmp_path: Path) -> None:
    big = np.zeros((32, 2048, 2048), np.uint8)
    big[3:5, 4:9, 4:9] = 1
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, big, compression="zlib")
    assert 2 * big.size == SAMPLES_MAX
    with pytest.raises(UploadError, match=r"t2\.tif"):
        kept(tmp_path, "cells.zip", zipped((f"t{number}.tif", path.read_bytes()) for number in range(3)))
