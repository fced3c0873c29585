"""Training sequences on disk: points of Ω with their signed distances, frame by frame.

A data set is a folder with ``dataset.json`` and one array per sequence, (frames, points, 4) float32: x, y, z and signed
distance. Where a source has random moments, a file holds many sequences in float16, so that thousands train as well.
Points gather where the membrane is: most in two narrow bands around it, the rest uniform in Ω, in random order, so that
any run of them is a fair sample. A share of those in bands can be drawn where the membrane bends: thin parts are little
of its area, and much of what the eye and the descriptors see. Arrays are memory-mapped: a data set larger than memory
trains as well.

Promises: every array is written whole or not at all; building again resumes and gives the same bytes. Distances are
exact: those of a phantom, or those to the surface found in a mask (:mod:`model.membranes.mask_surface`). At random
moments no sign is wrong, and errors near the membrane are below 1e-3 of Ω for 99 % of the points.
Does not promise: that the surface found in a mask is the cell's to better than a tenth of a voxel.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from scipy.spatial import KDTree

from model.domain import OMEGA, Grid, frame_times
from model.errors import DatasetError
from model.learning.sources import AnySource, ImportedSource, MaskSource, PhantomSource, Source, mask_files, mask_frames
from model.membranes.mask_surface import membrane_of_mask
from model.membranes.triangle_distance import Membrane
from model.phantoms import SignedDistance, make_phantom

Floats = NDArray[np.float32]
Epoch = tuple[int, ...]
INDEX_FILE = "dataset.json"
# Share of the points, standard deviation of their offset from the membrane in units of Ω; the rest is uniform in Ω.
BANDS = ((0.45, 0.015), (0.30, 0.06))
SURFACE_POINTS = 8192  # of a frame, from which its bands are drawn
BLOCK = 16  # sequences in a file, where they have random moments: 2 MB for 8 moments of 2,048 points
NEIGHBOURS = 16  # points of the membrane whose spread tells how it bends; 8192 on a cell: within about 0.04 of Ω


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SequenceEntry(_Frozen):
    """One sequence of a data set.

    ``times`` are those of its frames in τ where they are not evenly spread; ``part`` is its place in a file that holds
    several sequences.
    """

    name: str
    file: str
    frames: int
    times: list[float] | None = None
    part: int | None = None


class DatasetIndex(_Frozen):
    """What ``dataset.json`` holds."""

    format: Literal["cytosynth-dataset/1"] = "cytosynth-dataset/1"
    source: Source
    micrometres: float
    minutes: float
    sequences: list[SequenceEntry]


class Samples(Protocol):
    """Training points of one sequence: an array, or what reads like one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(frames, points, 4)."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, frame: int, /) -> Floats:
        """Points of a frame, (points, 4)."""
        ...


@dataclass(frozen=True)
class Dataset:
    """Training sequences, memory-mapped.

    Attributes
    ----------
    samples
        One array per sequence, (frames, points, 4): x, y, z in Ω and signed distance in units of Ω. float32, or float16
        where a source has random moments.
    """

    folder: Path
    source: AnySource
    micrometres: float
    minutes: float
    names: list[str]
    samples: Sequence[Samples]
    uneven: dict[int, Floats]

    def times(self, sequence: int) -> Floats:
        """Times of a sequence's frames, (T,) float32 in τ; evenly spread unless frames are missing between."""
        known = self.uneven.get(sequence)
        return frame_times(len(self.samples[sequence])) if known is None else known


def build_dataset(
    source: AnySource,
    folder: Path,
    *,
    epoch: Epoch = (),
    workers: int | None = None,
    on_sequence: Callable[[int, int], None] = lambda _done, _total: None,
) -> Dataset:
    """Sample every frame of a source and keep the points in a folder; what is there already is kept.

    Parameters
    ----------
    source
        Phantoms to draw, masks to read, or an imported data set, which is opened where it lies.
    folder
        Where the arrays go; made when missing.
    epoch
        Numbers that name another draw of moments and points, where the source has random moments.
    workers
        Processes; all cores when None. With one, the work is done in this process.
    on_sequence
        Called with (sequences done, sequences in all).

    Raises
    ------
    DatasetError
        If a mask cannot be used, or the folder holds another source's data.
    """
    if isinstance(source, ImportedSource):
        return load_dataset(source.folder)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / INDEX_FILE).is_file():
        dataset = load_dataset(folder)
        if dataset.source != source:
            raise DatasetError(f"{folder} holds the data of another source; choose another folder or remove it")
        return dataset
    scale, minutes = _physical(source)
    entries: list[SequenceEntry] = []
    with spread_over(workers or os.cpu_count() or 1) as mapped:
        if isinstance(source, PhantomSource) and source.moments:
            firsts = range(0, source.sequences, BLOCK)
            blocks = [(source, folder, first, min(BLOCK, source.sequences - first), epoch) for first in firsts]
            for block in mapped(_build_block, blocks):
                entries.extend(block)
                on_sequence(len(entries), source.sequences)
        else:
            jobs = _jobs(source)
            for entry in mapped(_build_sequence, [(source, folder, *job) for job in jobs]):
                entries.append(entry)
                on_sequence(len(entries), len(jobs))
    write_index(DatasetIndex(source=source, micrometres=scale, minutes=minutes, sequences=entries), folder)
    return load_dataset(folder)


@contextmanager
def spread_over(count: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """Give a ``map`` over so many new processes; with one, the ordinary one."""
    if count == 1:
        yield map
        return
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        yield pool.map


def write_index(index: DatasetIndex, folder: Path) -> None:
    """Write ``dataset.json``: with it, and not before, the folder is a data set."""
    partial = folder / f"{INDEX_FILE}.partial"
    partial.write_text(index.model_dump_json(indent=1, exclude_none=True), encoding="utf-8")
    partial.replace(folder / INDEX_FILE)


def load_dataset(folder: Path) -> Dataset:
    """Open a data set made by :func:`build_dataset`.

    Raises
    ------
    DatasetError
        If there is none, or it is damaged.
    """
    try:
        index = DatasetIndex.model_validate_json((folder / INDEX_FILE).read_bytes())
        files = {entry.file: np.load(folder / entry.file, mmap_mode="r") for entry in index.sequences}
        samples = [
            files[entry.file] if entry.part is None else files[entry.file][entry.part] for entry in index.sequences
        ]
    except FileNotFoundError as error:
        raise DatasetError(f"{folder} is not a complete data set: {Path(error.filename).name} is missing") from None
    except (ValidationError, ValueError, json.JSONDecodeError) as error:
        raise DatasetError(f"{folder} is not a data set of cytosynth: {error}") from None
    names = [entry.name for entry in index.sequences]
    uneven = {n: np.array(e.times, dtype=np.float32) for n, e in enumerate(index.sequences) if e.times is not None}
    return Dataset(folder, index.source, index.micrometres, index.minutes, names, samples, uneven)


def surface_variation(surface_points: Floats) -> NDArray[np.float64]:
    """Tell how much a surface bends around each of its points: 0 where it is flat, at most 1/3.

    Parameters
    ----------
    surface_points
        (m, 3) points, spread evenly.

    Returns
    -------
    NDArray
        (m,) float64: the least principal variance of the ``NEIGHBOURS`` nearest points over the sum of the three.

    References: Pauly, Gross & Kobbelt 2002, doi:10.1109/VISUAL.2002.1183771.
    """
    count = min(NEIGHBOURS, len(surface_points))
    _, nearest = KDTree(surface_points).query(surface_points, k=count)
    around = surface_points[nearest.reshape(-1, count)].astype(np.float64)  # (m, k, 3)
    around -= around.mean(axis=1, keepdims=True)
    variances = np.linalg.eigvalsh(around.transpose(0, 2, 1) @ around).clip(0.0)  # (m, 3), ascending
    return np.asarray(variances[:, 0] / np.maximum(variances.sum(axis=1), np.finfo(np.float64).tiny))


def sample_points(surface_points: Floats, count: int, rng: np.random.Generator, *, bend_share: float = 0.0) -> Floats:
    """Draw points where a network must learn: in bands around the membrane and everywhere in Ω.

    Parameters
    ----------
    surface_points
        (m, 3) points of the membrane, spread evenly.
    count
        How many points.
    rng
        Source of randomness.
    bend_share
        Share of the points in bands that lie at a point of the membrane drawn by how much it bends there
        (:func:`surface_variation`); the others lie at any.

    Returns
    -------
    Floats
        (count, 3) float32 in Ω, in random order.
    """
    shares = [round(share * count) for share, _ in BANDS]
    bends = surface_variation(surface_points) if bend_share else np.zeros(1)
    parts = []
    for size, (_, spread) in zip(shares, BANDS, strict=True):
        chosen = rng.integers(len(surface_points), size=size)
        if bends.any():
            bent = round(bend_share * size)
            chosen[:bent] = rng.choice(len(surface_points), size=bent, p=bends / bends.sum())
        base = surface_points[chosen]
        parts.append(base + rng.normal(0.0, spread, (size, 3)))
    parts.append(rng.uniform(-1.0, 1.0, (count - sum(shares), 3)))
    points = np.clip(np.concatenate(parts), -1.0, 1.0).astype(np.float32)
    rng.shuffle(points)
    return points


def sample_frame(
    sdf: SignedDistance,
    surface_points: Floats,
    count: int,
    *,
    sequence: int,
    frame: int,
    bend_share: float = 0.0,
) -> Floats:
    """Draw the training points of one frame, (count, 4) float32: x, y, z and signed distance.

    Parameters
    ----------
    sdf
        Signed distance of the frame, in units of Ω.
    surface_points
        (m, 3) points of its membrane, spread evenly.
    count
        How many points.
    sequence, frame
        Name the frame: the same ones give the same points.
    bend_share
        As :func:`sample_points` takes it.
    """
    rng = np.random.default_rng([7, sequence, frame])
    points = sample_points(surface_points, count, rng, bend_share=bend_share)
    return np.column_stack([points, sdf(points)]).astype(np.float32)


def _jobs(source: PhantomSource | MaskSource) -> list[tuple[int, str]]:
    if isinstance(source, PhantomSource):
        return [(index, f"{source.cell_type}-{source.first_seed + index}") for index in range(source.sequences)]
    return [(index, str(path)) for index, path in enumerate(mask_files(source))]


def _physical(source: PhantomSource | MaskSource) -> tuple[float, float]:
    if isinstance(source, MaskSource):
        return source.micrometres, source.minutes
    phantom = make_phantom(source.cell_type, source.first_seed)
    return phantom.micrometres, phantom.minutes


def _build_sequence(job: tuple[PhantomSource | MaskSource, Path, int, str]) -> SequenceEntry:
    source, folder, index, name = job
    path = folder / f"sequence_{index:04d}.npy"
    frames = _phantom_frames(source, index) if isinstance(source, PhantomSource) else _mask_frames(Path(name), index)
    if path.is_file():
        return SequenceEntry(name=Path(name).stem, file=path.name, frames=len(np.load(path, mmap_mode="r")))
    blocks = [
        sample_frame(
            sdf, surface_points, source.points_per_frame, sequence=index, frame=frame, bend_share=source.bend_share
        )
        for frame, (sdf, surface_points) in enumerate(frames)
    ]
    partial = path.with_suffix(f".{os.getpid()}.partial")  # two may draw into one folder
    with partial.open("wb") as file:
        np.save(file, np.stack(blocks))
    partial.replace(path)
    return SequenceEntry(name=Path(name).stem, file=path.name, frames=len(blocks))


def moments_of(source: PhantomSource, index: int, epoch: Epoch = ()) -> Floats:
    """Times at which a sequence is sampled whose source has random moments, (moments,) float32 in τ, increasing."""
    rng = np.random.default_rng([13, source.first_seed + index, *epoch])
    return np.sort(rng.uniform(-1.0, 1.0, source.moments).astype(np.float32))


def _build_block(job: tuple[PhantomSource, Path, int, int, Epoch]) -> list[SequenceEntry]:
    """Sample the sequences of one file at random moments; the file is written whole, and kept if it is there."""
    source, folder, first, count, epoch = job
    indices = range(first, first + count)
    path = folder / f"sequences_{first:06d}.npy"
    if not path.is_file():
        partial = path.with_suffix(f".{os.getpid()}.partial")  # two may draw into one folder
        with partial.open("wb") as file:
            np.save(file, np.stack([_moment_points(source, index, epoch) for index in indices]))
        partial.replace(path)
    return [
        SequenceEntry(
            name=f"{source.cell_type}-{source.first_seed + index}",
            file=path.name,
            frames=source.moments or 0,
            times=[float(t) for t in moments_of(source, index, epoch)],
            part=index - first,
        )
        for index in indices
    ]


def _moment_points(source: PhantomSource, index: int, epoch: Epoch) -> NDArray[np.float16]:
    """Training points of one sequence, (moments, points, 4) float16; distances are those of the rounded points."""
    seed = source.first_seed + index
    phantom = make_phantom(source.cell_type, seed)
    blocks = []
    for number, t in enumerate(moments_of(source, index, epoch)):
        frame, rng = phantom.moment(float(t)), np.random.default_rng([17, seed, number, *epoch])
        points = sample_points(frame.surface_points, source.points_per_frame, rng, bend_share=source.bend_share)
        points = points.astype(np.float16).astype(np.float32)
        blocks.append(np.column_stack([points, frame.projected(points)]).astype(np.float16))
    return np.stack(blocks)


def _phantom_frames(source: PhantomSource, index: int) -> Iterator[tuple[SignedDistance, Floats]]:
    phantom = make_phantom(source.cell_type, source.first_seed + index)
    for t in frame_times(source.frames):
        frame = phantom.frame(float(t))
        yield frame, frame.surface_points


def mask_membranes(path: Path) -> Iterator[Membrane]:
    """Give the membrane of each frame of a TIFF of masks, in units of Ω.

    Raises
    ------
    DatasetError
        If the file cannot be used.
    """
    for mask in mask_frames(path):
        nx, ny, nz = mask.shape
        x, y, z = (float(step) for step in Grid((nx, ny, nz)).step)
        if not np.allclose([y, z], x):
            raise DatasetError(
                f"{path.name}: frames are {'×'.join(map(str, mask.shape))}; a folder of masks must hold cubic ones. "
                "python -m model import takes any shape and spacing"
            )
        corner = np.full(3, -OMEGA[0])  # the first sample lies at the lower corner of Ω
        yield membrane_of_mask(mask, (x, y, z)).placed(corner, 1.0)


def _mask_frames(path: Path, index: int) -> Iterator[tuple[SignedDistance, Floats]]:
    for frame, membrane in enumerate(mask_membranes(path)):
        yield membrane.distance(), membrane.sample(SURFACE_POINTS, np.random.default_rng([11, index, frame]))
