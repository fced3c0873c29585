"""Training sequences on disk: points of Ω with their signed distances, frame by frame.

A data set is a folder with ``dataset.json`` and one array a sequence, (frames, points, 4) float32: x, y, z and signed
distance. Points gather where the membrane is: most in two narrow bands around it, the rest uniform in Ω, in random
order, so that any run of them is a fair sample. Arrays are memory-mapped: a data set larger than memory trains as well.

Promises: every array is written whole or not at all; building again resumes and gives the same bytes.
Does not promise: metric distances for label volumes beyond half a voxel (a mask does not hold more).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tifffile
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy import ndimage

from model.domain import frame_times
from model.errors import DatasetError
from model.phantoms import SignedDistance, make_phantom

Floats = NDArray[np.float32]
INDEX_FILE = "dataset.json"
BANDS = ((0.45, 0.015), (0.30, 0.06))  # share of the points, standard deviation of their offset from the membrane
FAR_SHARE = 0.25  # uniform in Ω


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PhantomSource(_Frozen):
    """Sequences of procedural cells."""

    kind: Literal["phantoms"] = "phantoms"
    cell_type: str
    sequences: int = Field(ge=1, le=10_000)
    frames: int = Field(default=30, ge=1, le=1000)
    first_seed: int = Field(default=0, ge=0)
    points_per_frame: int = Field(default=32_768, ge=1024)


class MaskSource(_Frozen):
    """Sequences of binary TIFF volumes (TZYX, cubic voxels, any non-zero value is the cell), one file a sequence."""

    kind: Literal["masks"]
    folder: Path
    pattern: str = "*.tif"
    micrometres: float = Field(default=1.0, gt=0, description="Length of one unit of Ω in µm.")
    minutes: float = Field(default=1.0, gt=0, description="Duration of τ.")
    points_per_frame: int = Field(default=32_768, ge=1024)


Source = Annotated[PhantomSource | MaskSource, Field(discriminator="kind")]


class _Entry(_Frozen):
    name: str
    file: str
    frames: int


class _Index(_Frozen):
    format: Literal["cytosynth-dataset/1"] = "cytosynth-dataset/1"
    source: Source
    micrometres: float
    minutes: float
    sequences: list[_Entry]


@dataclass(frozen=True)
class Dataset:
    """Training sequences, memory-mapped.

    Attributes
    ----------
    samples
        One array a sequence, (frames, points, 4) float32: x, y, z in Ω and signed distance in units of Ω.
    """

    folder: Path
    source: PhantomSource | MaskSource
    micrometres: float
    minutes: float
    names: list[str]
    samples: list[Floats]

    def times(self, sequence: int) -> Floats:
        """Times of a sequence's frames, (T,) float32 in τ."""
        return frame_times(len(self.samples[sequence]))


def build_dataset(
    source: PhantomSource | MaskSource,
    folder: Path,
    *,
    workers: int | None = None,
    on_sequence: Callable[[int, int], None] = lambda _done, _total: None,
) -> Dataset:
    """Sample every frame of a source and keep the points in a folder; what is there already is kept.

    Parameters
    ----------
    source
        Phantoms to draw or masks to read.
    folder
        Where the arrays go; made when missing.
    workers
        Processes; all cores when None.
    on_sequence
        Called with (sequences done, sequences in all).

    Raises
    ------
    DatasetError
        If a mask cannot be used, or the folder holds another source's data.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / INDEX_FILE).is_file():
        dataset = load_dataset(folder)
        if dataset.source != source:
            raise DatasetError(f"{folder} holds the data of another source; choose another folder or remove it")
        return dataset
    jobs = _jobs(source)
    scale, minutes = _physical(source)
    entries: list[_Entry] = []
    with ProcessPoolExecutor(workers or os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for done, entry in enumerate(pool.map(_build_sequence, [(source, folder, *job) for job in jobs]), start=1):
            entries.append(entry)
            on_sequence(done, len(jobs))
    index = _Index(source=source, micrometres=scale, minutes=minutes, sequences=entries)
    partial = folder / f"{INDEX_FILE}.partial"
    partial.write_text(index.model_dump_json(indent=1), encoding="utf-8")
    partial.replace(folder / INDEX_FILE)
    return load_dataset(folder)


def load_dataset(folder: Path) -> Dataset:
    """Open a data set made by :func:`build_dataset`.

    Raises
    ------
    DatasetError
        If there is none, or it is damaged.
    """
    try:
        index = _Index.model_validate_json((folder / INDEX_FILE).read_bytes())
        samples = [np.load(folder / entry.file, mmap_mode="r") for entry in index.sequences]
    except FileNotFoundError as error:
        raise DatasetError(f"{folder} is not a complete data set: {Path(error.filename).name} is missing") from None
    except (ValidationError, ValueError, json.JSONDecodeError) as error:
        raise DatasetError(f"{folder} is not a data set of cytosynth: {error}") from None
    names = [entry.name for entry in index.sequences]
    return Dataset(folder, index.source, index.micrometres, index.minutes, names, samples)


def sample_points(surface_points: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Draw points where a network must learn: in bands around the membrane and everywhere in Ω.

    Parameters
    ----------
    surface_points
        (m, 3) points of the membrane, spread evenly.
    count
        How many points.
    rng
        Source of randomness.

    Returns
    -------
    Floats
        (count, 3) float32 in Ω, in random order.
    """
    shares = [round(share * count) for share, _ in BANDS]
    parts = []
    for size, (_, spread) in zip(shares, BANDS, strict=True):
        base = surface_points[rng.integers(len(surface_points), size=size)]
        parts.append(base + rng.normal(0.0, spread, (size, 3)))
    parts.append(rng.uniform(-1.0, 1.0, (count - sum(shares), 3)))
    points = np.clip(np.concatenate(parts), -1.0, 1.0).astype(np.float32)
    rng.shuffle(points)
    return points


def mask_distance(mask: NDArray[np.bool_]) -> Floats:
    """Signed distance of a binary volume at its voxel centres, in voxels.

    The plain distance transform measures to the nearest voxel centre of the other kind and never falls below one; the
    membrane lies half a voxel before it. A Gaussian of 0.6 voxel removes the staircase without moving a flat wall.

    Parameters
    ----------
    mask
        (nx, ny, nz), True inside.

    Returns
    -------
    Floats
        (nx, ny, nz) float32, negative inside.
    """
    outside = ndimage.distance_transform_edt(~mask)
    inside = ndimage.distance_transform_edt(mask)
    distance = np.where(mask, 0.5 - inside, outside - 0.5)
    return np.asarray(ndimage.gaussian_filter(distance, 0.6), dtype=np.float32)


def mask_frames(path: Path) -> NDArray[np.bool_]:
    """Read a TIFF of masks as (t, x, y, z) booleans.

    Raises
    ------
    DatasetError
        If it is no TZYX volume, or a frame is empty or full.
    """
    try:
        volume = tifffile.imread(path)
    except (OSError, ValueError, tifffile.TiffFileError) as error:
        raise DatasetError(f"{path.name} cannot be read as TIFF: {error}") from None
    if volume.ndim != 4:
        raise DatasetError(f"{path.name} has {volume.ndim} axes; a sequence of masks has four: T, Z, Y, X")
    masks = np.ascontiguousarray((volume != 0).transpose(0, 3, 2, 1))
    for frame, mask in enumerate(masks):
        if mask.all() or not mask.any():
            raise DatasetError(f"{path.name}: frame {frame} is {'full' if mask.any() else 'empty'}; it shows no cell")
    return masks


def mask_files(source: MaskSource) -> list[Path]:
    """Files of a mask source in the order of its sequences.

    Raises
    ------
    DatasetError
        If there is none.
    """
    files = sorted(source.folder.glob(source.pattern))
    if not files:
        raise DatasetError(f"no file matches {source.pattern!r} in {source.folder}")
    return files


def _jobs(source: PhantomSource | MaskSource) -> list[tuple[int, str]]:
    if isinstance(source, PhantomSource):
        return [(index, f"{source.cell_type}-{source.first_seed + index}") for index in range(source.sequences)]
    return [(index, str(path)) for index, path in enumerate(mask_files(source))]


def _physical(source: PhantomSource | MaskSource) -> tuple[float, float]:
    if isinstance(source, MaskSource):
        return source.micrometres, source.minutes
    phantom = make_phantom(source.cell_type, source.first_seed)
    return phantom.micrometres, phantom.minutes


def _build_sequence(job: tuple[PhantomSource | MaskSource, Path, int, str]) -> _Entry:
    source, folder, index, name = job
    path = folder / f"sequence_{index:04d}.npy"
    frames = _phantom_frames(source, index) if isinstance(source, PhantomSource) else _mask_frames(Path(name))
    if path.is_file():
        return _Entry(name=Path(name).stem, file=path.name, frames=len(np.load(path, mmap_mode="r")))
    blocks = []
    for frame, (sdf, surface_points) in enumerate(frames):
        rng = np.random.default_rng([7, index, frame])
        points = sample_points(surface_points, source.points_per_frame, rng)
        blocks.append(np.column_stack([points, sdf(points)]).astype(np.float32))
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.save(file, np.stack(blocks))
    partial.replace(path)
    return _Entry(name=Path(name).stem, file=path.name, frames=len(blocks))


def _phantom_frames(source: PhantomSource, index: int) -> Iterator[tuple[SignedDistance, Floats]]:
    phantom = make_phantom(source.cell_type, source.first_seed + index)
    for t in frame_times(source.frames):
        frame = phantom.frame(float(t))
        yield frame, frame.surface_points


def _mask_frames(path: Path) -> Iterator[tuple[SignedDistance, Floats]]:
    for mask in mask_frames(path):
        distance = mask_distance(mask)
        shape = np.array(mask.shape)
        step = 2.0 / (shape - 1)
        if not np.allclose(step, step[0]):
            raise DatasetError(f"{path.name}: frames are {'×'.join(map(str, mask.shape))}; masks must be cubic")
        yield _interpolated(distance, float(step[0])), _crossings(distance, float(step[0]))


def _interpolated(distance: Floats, step: float) -> SignedDistance:
    """Trilinear interpolation of a sampled distance, in units of Ω; samples sit at index · step − 1."""

    def sdf(points: Floats) -> Floats:
        index = (points.T + 1.0) / step
        values = ndimage.map_coordinates(distance, index, order=1, mode="nearest")
        return np.asarray(values * step, dtype=np.float32)

    return sdf


def _crossings(distance: Floats, step: float) -> Floats:
    """Points where the sampled distance changes sign along the grid's edges, (m, 3) float32 in Ω."""
    parts = []
    for axis in range(3):
        low = np.delete(distance, -1, axis=axis)
        high = np.delete(distance, 0, axis=axis)
        index = np.argwhere((low > 0) != (high > 0))
        a, b = low[tuple(index.T)], high[tuple(index.T)]
        point = index.astype(np.float32)
        point[:, axis] += a / (a - b)
        parts.append(point)
    return np.concatenate(parts) * np.float32(step) - np.float32(1.0)
