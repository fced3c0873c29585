"""Realism of phantoms: their descriptors beside those of real cells, by the effect size used for calibration.

A real cell is a binary mask of one body a frame; a phantom's frame gives each of its bodies. Surfaces of masks are
recovered with sub-voxel accuracy (:mod:`model.membranes.mask_surface`), those of phantoms are known. Where the size of
a voxel is unknown, lengths, areas and volumes agree only up to a common scale: ``volume_of_median`` and
``area_of_median`` compare them after dividing each side by its median.

Promises: frames of one cell are not treated as independent cells: confidence intervals resample whole cells.
Does not promise: that the real cells were segmented well.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from model.domain import frame_times
from model.errors import DatasetError
from model.evaluation.comparison import BODY_NAMES
from model.evaluation.measures.descriptors import Descriptors, bodies_of, describe
from model.evaluation.measures.statistics import compare
from model.learning.sources import MaskSource, mask_files, mask_frames
from model.membranes.mask_surface import membrane_of_mask
from model.membranes.triangle_distance import Membrane
from model.phantoms import make_phantom

SURFACE_SIDE = 64  # grid cells along an edge of Ω, for the surface of a phantom
SCALED = {"volume_of_median": "volume", "area_of_median": "area"}

Measured = list[list[Descriptors]]
"""Bodies of each cell, over all its frames."""


def real_bodies(
    folder: Path,
    *,
    listing: Path | None = None,
    unit: float = 1.0,
    workers: int = 1,
    on_cell: Callable[[str], None] = lambda _name: None,
) -> Measured:
    """Measure a folder of masks.

    Parameters
    ----------
    folder
        TIFF volumes (TZYX, cubic voxels), one cell a file.
    listing
        JSON that holds, anywhere in lists and objects, objects with ``file`` and ``voxel_size``; voxels are 1 without.
    unit
        Micrometres in one unit of ``voxel_size``.
    workers
        Processes.
    on_cell
        Called with the name of each cell.

    Raises
    ------
    DatasetError
        If there are no masks, or the listing lacks one.
    """
    files = mask_files(MaskSource(kind="masks", folder=folder))
    sizes = _voxel_sizes(listing) if listing is not None else {path.name: 1.0 for path in files}
    missing = [path.name for path in files if path.name not in sizes]
    if missing:
        raise DatasetError(f"{listing} gives no voxel_size for {missing[0]}")
    jobs = [(path, sizes[path.name] * unit) for path in files]
    return _mapped(_real_cell, jobs, workers, on_cell, [path.stem for path in files])


def phantom_bodies(
    cell_type: str,
    seeds: Iterable[int],
    *,
    moments: int,
    workers: int = 1,
    on_cell: Callable[[str], None] = lambda _name: None,
) -> Measured:
    """Measure phantoms at times spread over their sequences; bodies in µm."""
    chosen = list(seeds)
    job = partial(_phantom_cell, cell_type, moments)
    return _mapped(job, chosen, workers, on_cell, [f"{cell_type} {seed}" for seed in chosen])


def compare_with_real(
    real: Measured,
    cell_type: str,
    *,
    seeds: Iterable[int],
    moments: int = 10,
    workers: int = 1,
    on_cell: Callable[[str], None] = lambda _name: None,
) -> dict[str, dict[str, Any]]:
    """Compare phantoms with real cells.

    Returns
    -------
    dict
        For each descriptor ``D``, its interval ``low`` and ``high``, its ``p``, and the 5, 50 and 95 % quantiles of
        both sides.
    """
    phantoms = phantom_bodies(cell_type, seeds, moments=moments, workers=workers, on_cell=on_cell)
    rng = np.random.default_rng(0)
    rows: dict[str, dict[str, Any]] = {}
    for name in (*BODY_NAMES, *SCALED):
        ours, theirs = _values(phantoms, name), _values(real, name)
        found = compare(ours, theirs, rng=rng)
        if found is not None:
            rows[name] = {
                "D": round(found.distance, 4), "low": round(found.low, 4), "high": round(found.high, 4),
                "p": round(found.p, 4), "real": _spread(theirs), "phantoms": _spread(ours),
            }  # fmt: skip
    return rows


def _values(cells: Measured, name: str) -> list[list[float]]:
    values = [[float(getattr(body, SCALED.get(name, name))) for body in cell] for cell in cells]
    if name not in SCALED:
        return values
    median = float(np.median([value for cell in values for value in cell]))
    return [[value / median for value in cell] for cell in values]


def _spread(values: list[list[float]]) -> list[float]:
    pooled = np.concatenate([np.asarray(cell) for cell in values])
    return [float(f"{value:.4g}") for value in np.quantile(pooled, [0.05, 0.5, 0.95])]


def _mapped(
    measure: Callable[[Any], list[Descriptors]],
    jobs: list[Any],
    workers: int,
    on_cell: Callable[[str], None],
    names: list[str],
) -> Measured:
    cells = []
    if workers == 1:
        for job, name in zip(jobs, names, strict=True):
            cells.append(measure(job))
            on_cell(name)
        return cells
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for cell, name in zip(pool.map(measure, jobs), names, strict=True):
            cells.append(cell)
            on_cell(name)
    return cells


def _real_cell(job: tuple[Path, float]) -> list[Descriptors]:
    path, voxel = job
    masks = mask_frames(path)
    return [describe(bodies_of(membrane_of_mask(mask, (voxel, voxel, voxel)))[0]) for mask in masks]


def _phantom_cell(cell_type: str, moments: int, seed: int) -> list[Descriptors]:
    phantom = make_phantom(cell_type, seed)
    found = []
    for t in frame_times(moments):
        shape = phantom.shape(float(t), resolution=SURFACE_SIDE)
        scaled = Membrane(shape.vertices * phantom.micrometres, shape.faces.astype(np.int32))
        found += [describe(body) for body in bodies_of(scaled)]
    return found


def _voxel_sizes(listing: Path) -> dict[str, float]:
    """Voxel sizes by the name of the file, from wherever they stand in a JSON document."""
    try:
        document = json.loads(listing.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise DatasetError(f"{listing} cannot be read as JSON: {error}") from None
    found: dict[str, float] = {}
    waiting = [document]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if isinstance(node.get("file"), str) and isinstance(node.get("voxel_size"), int | float):
                found[Path(node["file"]).name] = float(node["voxel_size"])
            waiting += list(node.values())
        elif isinstance(node, list):
            waiting += node
    return found
