"""The manifest: what a result holds, how it was made, and the checksum of each file.

Promises: the same cells give the same bytes; the manifest holds no date, host or path.
Does not promise: that the files exist or are intact; a reader compares checksums.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from model.formats import media_type
from model.output.contents import shard_manifest

MANIFEST_FILE = "manifest.json"
WARNINGS_MAX = 100  # that a root manifest repeats; those of shards have all


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


class FileEntry(_Frozen):
    """One file of a result."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$")]
    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    media_type: str


class Units(_Frozen):
    """Units of the numbers in the files."""

    length: Literal["micrometre"] = "micrometre"
    time: Literal["minute"] = "minute"
    micrometres: Annotated[float, Field(gt=0)] = Field(description="Length of one unit of Ω in µm.")
    minutes: Annotated[float, Field(gt=0)] = Field(description="Duration of τ in minutes.")
    spacing: Annotated[list[float], Field(min_length=3, max_length=3)] = Field(
        description="Distance of neighbouring samples along x, y and z in µm."
    )
    origin: Literal["centre of the domain"] = "centre of the domain"


class TrackEntry(_Frozen):
    """One label's track, as in ``man_track.txt``."""

    label: Annotated[int, Field(ge=1)]
    first_frame: Annotated[int, Field(ge=0)]
    last_frame: Annotated[int, Field(ge=0)]
    parent: Annotated[int, Field(ge=0)]


class CellEntry(_Frozen):
    """One synthesised sequence."""

    index: Annotated[int, Field(ge=0)]
    latent: list[float]
    rotation: Annotated[list[float], Field(min_length=4, max_length=4)]
    seed: Annotated[int, Field(ge=0)]
    rejected_codes: Annotated[int, Field(ge=0)] = Field(default=0, description="Implausible draws before this one.")
    tracks: list[TrackEntry]
    frames: list[dict[str, Any]]


class WarningEntry(_Frozen):
    """A warning about a result that was written."""

    code: Annotated[str, Field(pattern=r"^[a-z_]{1,64}$")]
    message: str


class ModelEntry(_Frozen):
    """The model that was used."""

    id: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class SoftwareEntry(_Frozen):
    """The software that was used."""

    name: str = "cytosynth"
    version: str


class Manifest(_Frozen):
    """Contents of a result and how it was made; the same in every run."""

    format: Literal["cytosynth-manifest/1"] = "cytosynth-manifest/1"
    spec: dict[str, Any]
    model: ModelEntry
    software: SoftwareEntry
    device_class: str
    units: Units
    cells: list[CellEntry]
    files: list[FileEntry]
    warnings: list[WarningEntry] = Field(default=[], description="Left out where there is none.")
    cells_spec: dict[str, Any] | None = Field(
        default=None,
        description="The spec that generates the cells, as their files state it; left out where it is spec.",
    )

    def to_json(self) -> bytes:
        """Canonical JSON: sorted keys, two spaces, ASCII, a newline at the end."""
        absent = {name for name in ("warnings", "cells_spec") if not getattr(self, name)}
        return _canonical(self.model_dump(mode="json", exclude=absent or None))


class ShardEntry(FileEntry):
    """The manifest of one shard: a file of the result, of the same form as the manifest of a request for its cells."""

    first_index: Annotated[int, Field(ge=0)]
    cells: Annotated[int, Field(ge=1)]
    files: Annotated[int, Field(ge=0)] = Field(description="How many files it lists.")
    bytes_of_files: Annotated[int, Field(ge=0)] = Field(description="Their size.")


class ShardedManifest(_Frozen):
    """The root manifest of a result of so many cells that the manifests of its shards list them and their files."""

    format: Literal["cytosynth-manifest/2"] = "cytosynth-manifest/2"
    spec: dict[str, Any]
    model: ModelEntry
    software: SoftwareEntry
    device_class: str
    units: Units
    shards: Annotated[list[ShardEntry], Field(min_length=1)]
    warnings: list[WarningEntry] = Field(default=[], description="The first of all; left out where there is none.")

    def to_json(self) -> bytes:
        """Canonical JSON, as :meth:`Manifest.to_json`."""
        return _canonical(self.model_dump(mode="json", exclude=None if self.warnings else {"warnings"}))


def _canonical(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, sort_keys=True, indent=2, ensure_ascii=True, allow_nan=False) + "\n").encode()


def write_sharded_manifest(folder: Path, shards: Iterable[Path], *, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Write the root manifest of a request from the manifests of its shards, one of them in memory at a time.

    Parameters
    ----------
    folder
        Gets ``manifest.json``.
    shards
        Manifests of all shards, in order.
    spec
        Of the whole request.

    Returns
    -------
    dict
        The root manifest.

    Raises
    ------
    ValueError
        If there is no shard, or a manifest is not one.
    OSError
        If a file cannot be read or written.
    """
    common: Manifest | None = None
    entries: list[ShardEntry] = []
    warnings: list[WarningEntry] = []
    further = 0
    for number, path in enumerate(shards):
        content = path.read_bytes()
        shard = Manifest.model_validate_json(content)
        common = common or shard.model_copy(update={"cells": [], "files": []})
        name = shard_manifest(number)
        entries.append(
            ShardEntry(
                name=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest(), media_type=media_type(name),
                first_index=shard.spec.get("first_index", 0), cells=len(shard.cells), files=len(shard.files),
                bytes_of_files=sum(file.bytes for file in shard.files),
            )
        )  # fmt: skip
        room = WARNINGS_MAX - len(warnings)
        warnings += shard.warnings[:room]
        further += len(shard.warnings[room:])
    if common is None:
        raise ValueError("a result has at least one shard")
    if further:
        said = f"{further} further warnings are in the manifests of the shards"
        warnings.append(WarningEntry(code="further_warnings", message=said))
    root = ShardedManifest(
        spec=dict(spec), model=common.model, software=common.software, device_class=common.device_class,
        units=common.units, shards=entries, warnings=warnings,
    )  # fmt: skip
    text = root.to_json()
    (folder / MANIFEST_FILE).write_bytes(text)
    document: dict[str, Any] = json.loads(text)
    return document


def merge_manifests(shards: Sequence[Manifest], spec: dict[str, Any]) -> Manifest:
    """Return the manifest of a whole request: the one that its spec gives when it is not divided.

    Parameters
    ----------
    shards
        Manifests of all its shards, in order.
    spec
        Of the whole request.
    """
    return shards[0].model_copy(
        update={
            "spec": spec,
            "cells": [cell for shard in shards for cell in shard.cells],
            "files": sorted((file for shard in shards for file in shard.files), key=lambda file: file.name),
            "warnings": [warning for shard in shards for warning in shard.warnings],
        }
    )


def amend_manifest(
    folder: Path,
    *,
    spec: Mapping[str, Any],
    beside: Sequence[Path],
    base: ModelEntry | None = None,
    generated: bool = True,
    warnings: Sequence[WarningEntry] = (),
) -> None:
    """Make the manifest of a written folder that of a request of another kind.

    Parameters
    ----------
    folder
        Holds the manifest and all files.
    spec
        Of the request.
    beside
        Files written beside those of the formats.
    base
        The model of the request, where the cells are made by one adapted from it; ``cells_spec`` then says how.
    generated
        Whether a spec alone generates the cells; otherwise none is stated.
    warnings
        Further ones.
    """
    path = folder / MANIFEST_FILE
    written = Manifest.model_validate_json(path.read_bytes())
    files = [*written.files]
    for file in beside:
        content, name = file.read_bytes(), file.relative_to(folder).as_posix()
        sha256 = hashlib.sha256(content).hexdigest()
        files.append(FileEntry(name=name, bytes=len(content), sha256=sha256, media_type=media_type(name)))
    update = {
        "spec": dict(spec),
        "cells_spec": written.spec if base and generated else None,
        "model": base or written.model,
        "files": sorted(files, key=lambda file: file.name),
        "warnings": [*written.warnings, *warnings],
    }
    path.write_bytes(written.model_copy(update=update).to_json())


@dataclass(frozen=True, kw_only=True)
class WrittenCell:
    """Files of one cell in one format, to be read back and compared with the manifest.

    Parameters
    ----------
    folder
        Of the cell, ``cell_0000``.
    files
        Names relative to it, sorted; files that are missing or differ from their checksums are left out.
    entry
        What the manifest says of the cell.
    manifest
        The whole of it: units, spec.
    """

    folder: Path
    files: tuple[str, ...]
    entry: CellEntry
    manifest: Manifest
