"""Verification of a downloaded result: whether its files are intact and hold what the manifest says.

Promises: every file of the manifest is compared with its checksum; each format reads its files back with an independent
reader (trimesh, tifffile) and compares them with the manifest: closed and outward surfaces, volume in µm³, axes,
labels. Files that the manifest does not name are reported, except hidden ones. Where shards have manifests of their
own, one shard is in memory at a time.
Does not promise: that the cell is plausible; see :mod:`model.network.plausibility`.
"""

from __future__ import annotations

import bisect
import hashlib
import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import ValidationError

from model.errors import ExportError
from model.formats import FORMATS
from model.output.contents import CELL, SHARDED_FORMAT
from model.output.manifest import MANIFEST_FILE, CellEntry, FileEntry, Manifest, ShardedManifest, WrittenCell


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
    root = _read(folder, folder / MANIFEST_FILE)
    if isinstance(root, Manifest):
        yield from _faults(folder, root)
        yield from _not_named(folder, {MANIFEST_FILE, *(entry.name for entry in root.files)})
        return
    for entry in root.shards:
        if fault := _fault(folder, entry):
            yield fault
            continue
        shard = _read(folder, folder / entry.name)
        if isinstance(shard, Manifest):
            yield from _faults(folder, shard)
            cells, names = {f"cell_{cell.index:04d}" for cell in shard.cells}, {file.name for file in shard.files}
            for cell in sorted(cells):
                yield from _not_named(folder, names, below=cell)
    yield from _not_named(folder, {MANIFEST_FILE, *(entry.name for entry in root.shards)}, without=_cells_of(root))


def _read(folder: Path, path: Path) -> Manifest | ShardedManifest:
    try:
        document = json.loads(path.read_bytes())
        sharded = isinstance(document, dict) and document.get("format") == SHARDED_FORMAT
        return ShardedManifest.model_validate(document) if sharded else Manifest.model_validate(document)
    except FileNotFoundError:
        raise ExportError(f"{folder} holds no {MANIFEST_FILE}; is it the folder of a result?") from None
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        why = f"{'/'.join(map(str, first['loc'])) or 'the document'}: {first['msg']}"
        raise ExportError(f"{path} is not a manifest of cytosynth: {why}") from None
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path} is not a manifest of cytosynth: not JSON ({error})") from None


def _cells_of(root: ShardedManifest) -> Callable[[str], bool]:
    """Return what says whether a folder, by its name, is that of a cell of the result."""
    firsts = [entry.first_index for entry in root.shards]

    def is_cell(name: str) -> bool:
        if not (found := CELL.fullmatch(f"{name}/")):
            return False
        index = int(found[1])
        number = bisect.bisect_right(firsts, index) - 1
        return number >= 0 and index < firsts[number] + root.shards[number].cells and name == f"cell_{index:04d}"

    return is_cell


def _faults(folder: Path, manifest: Manifest) -> Iterator[str]:
    intact: set[str] = set()
    for entry in manifest.files:
        if fault := _fault(folder, entry):
            yield fault
        else:
            intact.add(entry.name)
    for cell in manifest.cells:
        yield from _cell_faults(folder, f"cell_{cell.index:04d}", intact, cell, manifest)


def _fault(folder: Path, entry: FileEntry) -> str | None:
    path = folder / entry.name
    if not path.is_file():
        return f"{entry.name}: missing"
    return None if _sha256(path) == entry.sha256 else f"{entry.name}: differs from its checksum"


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


def _not_named(
    folder: Path, names: set[str], *, below: str = "", without: Callable[[str], bool] = lambda _name: False
) -> Iterator[str]:
    """Report files that lie in the folder and are not in the manifest: often those of an earlier result.

    Parameters
    ----------
    names
        Those that the manifest names.
    below
        Look only below this name.
    without
        Says of a name at the top whether to pass over what lies below it.
    """
    for top in [folder / below] if below else sorted(folder.iterdir()):
        if without(top.name) or not top.exists():
            continue
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            name = path.relative_to(folder)
            hidden = any(part.startswith(".") for part in name.parts)
            if not hidden and not path.is_dir() and name.as_posix() not in names:
                yield f"{name.as_posix()}: not in the manifest; is it of another result?"
