"""Verification of a downloaded result: whether its files are intact and hold what the manifest says.

Promises: every file of the manifest is compared with its checksum; each format reads its files back with an independent
reader (trimesh, tifffile) and compares them with the manifest: closed and outward surfaces, volume in µm³, axes,
labels. Files that the manifest does not name are reported, except hidden ones.
Does not promise: that the cell is plausible; see :mod:`model.network.plausibility`.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import ValidationError

from model.errors import ExportError
from model.formats import FORMATS
from model.output.manifest import MANIFEST_FILE, CellEntry, Manifest, WrittenCell


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
    intact: set[str] = set()
    for entry in manifest.files:
        path = folder / entry.name
        if not path.is_file():
            yield f"{entry.name}: missing"
        elif _sha256(path) != entry.sha256:
            yield f"{entry.name}: differs from its checksum"
        else:
            intact.add(entry.name)
    for cell in manifest.cells:
        yield from _cell_faults(folder, f"cell_{cell.index:04d}", intact, cell, manifest)
    yield from _not_named(folder, {MANIFEST_FILE, *(entry.name for entry in manifest.files)})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cell_faults(folder: Path, cell: str, intact: set[str], entry: CellEntry, manifest: Manifest) -> Iterator[str]:
    """Let each format read back its files of one cell."""
    names = sorted(name.removeprefix(f"{cell}/") for name in intact if name.startswith(f"{cell}/"))
    for row in FORMATS.values():
        files = tuple(name for name in names if row.writes(name))
        if not files:
            continue
        written = WrittenCell(folder=folder / cell, files=files, entry=entry, manifest=manifest)
        find_faults: Callable[[WrittenCell], Iterator[str]] = importlib.import_module(row.module).find_faults
        try:
            for fault in find_faults(written):
                yield f"{cell}/{fault}"
        except (LookupError, ValueError):
            yield f"{cell}/{files[0]}: the manifest does not say what should be in it"


def _not_named(folder: Path, names: set[str]) -> Iterator[str]:
    """Report files that lie in the folder and are not in the manifest: often those of an earlier result."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in name.parts)
        if not hidden and not path.is_dir() and name.as_posix() not in names:
            yield f"{name.as_posix()}: not in the manifest; is it of another result?"
