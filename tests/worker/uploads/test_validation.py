"""Whether uploads can be trained on, told before a training is queued: the findings of the library, for every kind."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hostile.corpus_files import box_stl
from numpy.typing import NDArray

from model.errors import SpecError
from model.learning.validation import validate
from worker.uploads import validation
from worker.uploads.sandbox import kind_of, kind_of_member
from worker.uploads.store import PlainFile, Upload, UploadRules, Uploads
from worker.uploads.validation import CellValidation, Validation

OWNER, NAME = "ada", "mine"
SIDE = 24
AXIS = np.arange(SIDE) - (SIDE - 1) / 2
from_centre = np.sqrt(AXIS[:, None, None] ** 2 + AXIS[:, None] ** 2 + AXIS**2)


def cell(radius: float = 7.0, *, frames: int = 4, shift: int = 0) -> NDArray[np.uint8]:
    """A growing ball, (t, z, y, x); shifted along x, it leaves the volume."""
    return np.stack([np.roll(from_centre < radius + 0.2 * t, shift, axis=2) for t in range(frames)]).astype(np.uint8)


def with_hole_in_time() -> NDArray[np.uint8]:
    volume = cell()
    volume[2] = 0
    return volume


def in_pieces() -> NDArray[np.uint8]:
    return np.asarray(np.maximum(cell(3.0, shift=-6), cell(3.0, shift=6)))


def partly_flat() -> NDArray[np.uint8]:
    volume = cell()
    volume[1, : SIDE // 2] = volume[1, SIDE // 2 + 1 :] = 0
    return volume


def tiff(volume: NDArray[Any], *, scaled: bool = True) -> bytes:
    file = io.BytesIO()
    scale: dict[str, Any] = {"resolution": (2.0, 2.0)} if scaled else {}
    more = {"spacing": 0.5, "unit": "um", "finterval": 60.0} if scaled else {}
    axes = "TZYX"[-volume.ndim :]
    tifffile.imwrite(file, volume, imagej=True, metadata={"axes": axes, **more}, **scale)
    return file.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def distances(values: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, values.astype(np.float32))
    return file.getvalue()


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    return Uploads(tmp_path, rules=UploadRules(reserve_bytes=0))


def keep(uploads: Uploads, files: dict[str, bytes]) -> list[Upload]:
    """Send files as uploads; ``folder/file`` is one of a sequence that is sent file by file."""
    kept: dict[str, Upload] = {}
    for path, content in files.items():
        name, _, member = path.partition("/")
        kind = kind_of_member(member) if member else kind_of(name)
        with uploads.arriving(OWNER) as arrived:
            arrived.write(content)
            arrived.close()
            facts = arrived.inspect(kind)
            if member:
                kept[name], _ = uploads.add(OWNER, arrived, name=name, path=member, kind=kind, facts=facts)
            else:
                kept[name], _ = uploads.keep(OWNER, arrived, name=name, kind=kind, facts=facts)
    return [*kept.values()]


def found(
    uploads: Uploads, files: dict[str, bytes], *, voxel: list[float] | None = None, interval: float | None = None
) -> Validation:
    answer = CellValidation(uploads).validate(OWNER, keep(uploads, files), folder=NAME, voxel=voxel, interval=interval)
    assert answer is not None
    return answer


# Uploads, the voxel of the request, and the finding.
REFUSED: dict[str, tuple[Callable[[], dict[str, bytes]], list[float] | None, str]] = {
    "no_spacing": (
        lambda: {"a.tif": tiff(cell(), scaled=False)}, None,
        "a: error no_spacing: voxel size unknown: give the voxel size with --voxel X Y Z (µm; voxel in a request)",
    ),
    "size": (
        lambda: {"a.tif": tiff(cell())}, [1e5, 1e5, 1e5],
        "a: error size: the cell is 1.4e+06 µm long; allowed are 0.01 to 100000 µm: give the voxel size with --voxel",
    ),
    "short": (
        lambda: {"a.tif": tiff(cell(frames=2))}, None,
        "a: error short: 2 frames; a sequence needs at least 3 (frames 0-1)",
    ),
    "border": (
        lambda: {"a.tif": tiff(cell(shift=6))}, None,
        "a: error border: the cell is cut by the border of the volume (frames 0-3)",
    ),
    "flat": (
        lambda: {"a.tif": tiff(partly_flat())}, None,
        "a: error flat: the cell is one voxel thick, so it has no shape in three dimensions: give masks of several",
    ),
    "bodies": (
        lambda: {"a.tif": tiff(in_pieces())}, None,
        "a: error bodies: the cell is in pieces: give each cell a label of its own, or remove the pieces (frames 0-3)",
    ),
    "empty frame, in an archive": (
        lambda: {"a.zip": zipped({"b.tif": tiff(with_hole_in_time())})}, None,
        "a/b: error empty: frames show no cell: leave them out (frames 2)",
    ),
    "two archives": (
        lambda: {"a.zip": zipped({"b.tif": tiff(cell(shift=6))}), "c.zip": zipped({"d.tif": tiff(cell(frames=2))})},
        None, "c/d: error short: 2 frames",
    ),
    "sent file by file": (
        lambda: {f"cells/t{k}.tif": tiff(volume) for k, volume in enumerate(cell(shift=6))}, None,
        "cells: error border: the cell is cut by the border of the volume (frames 0-3)",
    ),
    "a TIFF a frame": (
        lambda: {f"t{k}.tif": tiff(volume) for k, volume in enumerate(in_pieces())}, None,
        "mine: error bodies: the cell is in pieces",
    ),
    "surfaces": (
        lambda: {f"t{k}.stl": box_stl(side=10.0 + k) for k in range(2)}, None, "mine: error short: 2 frames",
    ),
    "distances": (
        lambda: {"a.npy": distances(np.stack([from_centre - 14.0] * 3))}, [1.0, 1.0, 1.0],
        "a: error border: the cell is cut by the border of the volume (frames 0-2)",
    ),
    "names that tell no order": (
        lambda: {f"t{k}_{9 - k}.tif": tiff(volume) for k, volume in enumerate(cell())}, None,
        "so the order of time is not known: let only the number of the frame vary",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_on_is_told_in_the_words_of_the_library(
    uploads: Uploads, tmp_path: Path, case: str
) -> None:
    files, voxel, sentence = REFUSED[case]
    sent = files()
    answer = found(uploads, sent, voxel=voxel)
    assert answer.refused is not None
    assert any(sentence in finding for finding in answer.findings), answer.findings
    shelf = tmp_path / "shelf" / NAME
    shelf.mkdir(parents=True)
    uploads.lay_out_all(OWNER, dict.fromkeys(path.partition("/")[0] for path in sent), shelf)
    if case.startswith("names"):
        return
    here = validate(shelf, voxel=voxel, interval=None)
    assert (answer.refused, [*answer.findings]) == (here.refusal, here.findings)
    assert answer.refused.splitlines()[1:] == [*answer.findings]


def test_where_one_sequence_can_be_trained_on_nothing_is_refused_and_all_findings_are_told(uploads: Uploads) -> None:
    answer = found(uploads, {"a.tif": tiff(cell()), "b.tif": tiff(cell(frames=2))})
    assert answer.refused is None
    assert [finding.split(":")[0] for finding in answer.findings] == ["b"]


GOOD: dict[str, Callable[[], dict[str, bytes]]] = {
    "a TIFF": lambda: {"a.tif": tiff(cell())},
    "a TIFF a frame": lambda: {f"t{k}.tif": tiff(volume) for k, volume in enumerate(cell())},
    "sent file by file": lambda: {f"cells/t{k}.tif": tiff(volume) for k, volume in enumerate(cell())},
    "an archive": lambda: {"a.zip": zipped({"b.tif": tiff(cell())})},
    "surfaces": lambda: {f"t{k}.stl": box_stl(side=10.0 + 0.5 * k) for k in range(3)},
    "distances": lambda: {"a.npy": distances(np.stack([from_centre - 6.0 - 0.1 * t for t in range(3)]))},
}


@pytest.mark.parametrize("case", GOOD)
def test_good_cells_are_refused_for_nothing(uploads: Uploads, case: str) -> None:
    answer = found(uploads, GOOD[case](), voxel=[0.5, 0.5, 0.5])
    coarse = ("mine: warning coarse: fewer than 250 samples (frames 0-2)",)  # a box has twelve triangles
    assert answer == Validation(None, coarse if case == "surfaces" else ())


def test_an_answer_is_kept_for_the_same_uploads_and_scale(uploads: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, checks = keep(uploads, {"a.tif": tiff(cell(), scaled=False)}), CellValidation(uploads)

    def ask(voxel: list[float] | None) -> Validation | None:
        return checks.validate(OWNER, kept, folder=NAME, voxel=voxel, interval=None)

    first = ask(None)
    assert first is not None
    assert first.refused is not None
    assert ask([1.0, 1.0, 1.0]) == Validation(None, ())
    monkeypatch.setattr(validation, "SECONDS", 0)  # a process that may compute nothing
    assert ask(None) is first
    assert ask([2.0, 2.0, 2.0]) is None


def test_what_cannot_be_told_here_is_left_to_the_training(uploads: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    (bad,) = keep(uploads, {"a.tif": tiff(cell(frames=2))})

    def ask(upload: Upload) -> Validation | None:
        return CellValidation(uploads).validate(OWNER, [upload], folder=NAME, voxel=None, interval=None)

    assert ask(bad) is not None
    assert ask(replace(bad, files=())) is None  # kept by an earlier version
    assert ask(replace(bad, files=(*bad.files, PlainFile(path="b.tif", bytes=2**28, sha256="")))) is None
    monkeypatch.setattr(validation, "NEEDED", ("numpy", "a_library_that_is_not_there"))
    assert ask(bad) is None


@pytest.mark.parametrize(("files", "told"), [("labels", True), ("surfaces", False)])
def test_label_volumes_are_checked_with_what_a_web_image_holds(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch, files: str, told: bool
) -> None:
    missing = ("scipy", "trimesh", "numba", "skimage", "torch", "matplotlib", "PIL", "safetensors", "networkx")
    monkeypatch.setattr(validation, "START", f"import sys; sys.modules |= dict.fromkeys({missing}); {validation.START}")
    sent = {"labels": {"a.zip": zipped({"b.tif": tiff(in_pieces())})}, "surfaces": {"a.stl": box_stl()}}
    answer = CellValidation(uploads).validate(OWNER, keep(uploads, sent[files]), folder=NAME, voxel=None, interval=None)
    assert (answer is not None and answer.refused is not None) is told


def test_uploads_that_differ_in_their_ending_only_are_refused(uploads: Uploads) -> None:
    kept = keep(uploads, {"a.tif": tiff(cell()), "a.tiff": tiff(cell())})
    with pytest.raises(SpecError, match=r"a\.tiff and another upload differ in their ending only: rename one"):
        CellValidation(uploads).validate(OWNER, kept, folder=NAME, voxel=None, interval=None)
