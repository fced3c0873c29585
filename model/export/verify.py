"""Verification of a downloaded result: whether its files are intact and hold what the manifest says.

Promises: every file of the manifest is read with an independent reader (trimesh, tifffile) and compared with the
manifest: checksum, closed and outward surfaces, volume in µm³, axes, labels. Files that the manifest does not name are
reported, except hidden ones.
Does not promise: that the cell is plausible; see :mod:`model.network.plausibility`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import trimesh
from pydantic import ValidationError

from model.errors import ExportError
from model.export.manifest import MANIFEST_FILE, CellEntry, FileEntry, Manifest
from model.formats import FORMATS

VOLUME_TOLERANCE = 1e-3  # relative difference allowed, because files hold float32
HOLDS = {row.suffix: row.holds for row in FORMATS.values()}  # by file ending: what the file must hold


def verify_result(folder: Path) -> Iterator[str]:
    """Yield what is wrong with a result; nothing when all is well.

    Parameters
    ----------
    folder
        Holds ``manifest.json`` and the files it lists.

    Raises
    ------
    ExportError
        If there is no manifest, or it is not one.
    """
    try:
        manifest = Manifest.model_validate(json.loads((folder / MANIFEST_FILE).read_bytes()))
    except FileNotFoundError:
        raise ExportError(f"{folder} holds no {MANIFEST_FILE}; is it the folder of a result?") from None
    except OSError as error:
        raise ExportError(f"{folder / MANIFEST_FILE} cannot be read: {error.strerror or error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        why = f"{'/'.join(map(str, first['loc'])) or 'the document'}: {first['msg']}"
        raise ExportError(f"{folder / MANIFEST_FILE} is not a manifest of cytosynth: {why}") from None
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{folder / MANIFEST_FILE} is not a manifest of cytosynth: not JSON ({error})") from None
    for entry in manifest.files:
        path = folder / entry.name
        if not path.is_file():
            yield f"{entry.name}: missing"
        elif hashlib.sha256(path.read_bytes()).hexdigest() != entry.sha256:
            yield f"{entry.name}: differs from its checksum"
        else:
            yield from _verify_file(path, entry, manifest)
    yield from _not_named(folder, {MANIFEST_FILE, *(entry.name for entry in manifest.files)})


def _not_named(folder: Path, names: set[str]) -> Iterator[str]:
    """Report files that lie in the folder and are not in the manifest: often those of an earlier result."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in name.parts)
        if not hidden and not path.is_dir() and name.as_posix() not in names:
            yield f"{name.as_posix()}: not in the manifest; is it of another result?"


def _verify_file(path: Path, entry: FileEntry, manifest: Manifest) -> Iterator[str]:
    try:
        cell = manifest.cells[int(entry.name[5:9])]  # cell_0000/…
        match HOLDS.get(path.suffix):
            case "surface":
                faults = list(_mesh_faults(path, cell.frames[int(path.stem.removeprefix("frame_"))]))
            case "labels":
                faults = list(_label_faults(path, cell))
            case _:
                return
    except (LookupError, ValueError):
        faults = ["the manifest does not say what should be in it"]
    for fault in faults:
        yield f"{entry.name}: {fault}"


def _mesh_faults(path: Path, frame: dict[str, Any]) -> Iterator[str]:
    try:
        mesh = trimesh.load_mesh(path)
    except Exception:  # noqa: BLE001 (its readers raise almost anything on a bad file)
        yield "cannot be read as a mesh"
        return
    if not mesh.is_watertight:
        yield "the surface is not closed"
    elif mesh.volume <= 0.0:
        yield "triangles face inward"
    elif abs(mesh.volume - frame["volume_um3"]) > VOLUME_TOLERANCE * frame["volume_um3"]:
        yield f"encloses {mesh.volume:.1f} µm³, the manifest says {frame['volume_um3']:.1f}"


def _label_faults(path: Path, cell: CellEntry) -> Iterator[str]:
    try:
        opened = tifffile.TiffFile(path)
    except (OSError, ValueError):  # tifffile's own error is a ValueError
        yield "cannot be read as TIFF"
        return
    with opened as tiff:
        series = tiff.series[0]
        if not tiff.is_imagej:
            yield "no ImageJ metadata"
        axes = series.get_axes(squeeze=False)
        if axes != "TZCYXS" or series.dtype != np.uint16:  # one channel, one sample: TZYX
            yield f"{axes} {series.dtype}, not TZYX uint16"
            return
        volume = series.asarray(squeeze=False)  # (t, z, 1, y, x, 1)
    if len(volume) != len(cell.frames):
        yield f"{len(volume)} frames, the manifest says {len(cell.frames)}"
        return
    for number, (labels, frame) in enumerate(zip(volume, cell.frames, strict=True)):
        found = [int(label) for label in np.unique(labels) if label]
        if found != frame["labels"]:
            yield f"frame {number} holds labels {found}, the manifest says {frame['labels']}"
