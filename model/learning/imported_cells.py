"""Training sequences from a user's own cells, in the folder format of :mod:`model.learning.dataset`.

Every frame is read once. For each of its cells the membrane is found, exact distances of points around it are computed,
and the membrane is stored for the later evaluation of a trained model. Each frame is centred on its cell. By default
one scale holds for the whole set, so that sizes stay comparable over time and between cells.

Promises: one frame a process is in memory at a time. The same files give the same bytes with any number of processes.
The folder becomes a data set only when everything is in it.
Does not promise: to keep the position of a cell in Ω; its path is in ``survey.json``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from secrets import token_hex
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model.domain import frame_to_time
from model.errors import DatasetError
from model.learning.dataset import (
    INDEX_FILE,
    SURFACE_POINTS,
    Dataset,
    DatasetIndex,
    SequenceEntry,
    load_dataset,
    sample_frame,
    write_index,
)
from model.learning.sources import ImportedSource
from model.membranes.triangle_distance import CellShape, Membrane
from model.readers.recording import Recording
from model.readers.survey import Surveyed

SURVEY_FILE = "survey.json"
STORED = np.float32  # of the vertices of membranes
MEMBRANES = "membranes"  # the folder of membranes: membranes/0003/0017.npz is frame 17 of sequence 3


@dataclass(frozen=True, kw_only=True)
class ImportPlan:
    """How cells are placed and scaled in Ω, and how many points are drawn.

    Parameters
    ----------
    margin
        Share of the way from the middle of Ω to its border that stays free around the largest cell.
    scale
        ``shared``: one length of Ω for all sequences; ``sequence``: each fills Ω.
    points_per_frame
        Training points of a frame.
    bend_share
        Share of those near the membrane that are drawn where it bends.
    minutes
        Between frames.
    micrometres
        Length of one unit of Ω, instead of the one that follows from ``margin`` and ``scale``.
    """

    margin: float = 0.15
    scale: Literal["shared", "sequence"] = "shared"
    points_per_frame: int = 32_768
    bend_share: float = 0.0
    minutes: float = 1.0
    micrometres: float | None = None


@dataclass(frozen=True)
class _Task:
    """Everything to be made from one frame of one recording."""

    recording: Recording
    frame: int
    cells: list[tuple[int, int, tuple[int, ...], NDArray[np.float64], float]]
    """For each: sequence, its row, labels, centre in µm, µm of one unit of Ω."""


def import_sequences(
    recordings: list[Recording],
    surveyed: list[Surveyed],
    folder: Path,
    *,
    plan: ImportPlan,
    workers: int = 1,
    on_frame: Callable[[int, int], None] = lambda _done, _total: None,
    resume: bool = False,
) -> Dataset:
    """Make training sequences of all cells without errors.

    Parameters
    ----------
    recordings, surveyed
        The open files, and what :func:`model.readers.survey.survey` found in them.
    folder
        Where the data set goes; must not hold one.
    plan
        How cells are placed and scaled in Ω, and how many points are drawn.
    workers
        Processes.
    on_frame
        Called with (frames done, frames in all).
    resume
        Keep the frames that an earlier call with the same arguments has made before it was killed.

    Raises
    ------
    DatasetError
        If no sequence is usable, or the folder holds a data set.
    """
    usable = [one for one in surveyed if one.is_usable]
    if not usable:
        raise DatasetError("no sequence can be used as it is; python -m model validate lists what is wrong")
    if (folder / INDEX_FILE).exists():
        raise DatasetError(f"{folder} holds a data set already; choose another folder or remove it")
    scales = _scales(usable, plan)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = [folder / f"sequence_{number:04d}.npy" for number in range(len(usable))]
    for one, path in zip(usable, arrays, strict=True):
        shape = (len(one.sequence.frames), plan.points_per_frame, 4)
        if not (resume and path.exists()):
            _reserve(path, shape)
        (folder / MEMBRANES / path.stem[-4:]).mkdir(parents=True, exist_ok=True)
    tasks = _tasks(recordings, usable, scales)
    if resume:
        tasks = [task for task in tasks if not all(_membranes(folder, *cell[:2]).exists() for cell in task.cells)]
    with _mapping(workers) as mapped:
        for done, _ in enumerate(mapped(_make_frame, [(task, folder, plan) for task in tasks]), 1):
            on_frame(done, len(tasks))
    entries = [
        SequenceEntry(
            name=one.sequence.name, file=path.name, frames=len(one.sequence.frames), times=times_of(one.sequence.frames)
        )
        for one, path in zip(usable, arrays, strict=True)
    ]
    _write_survey(folder, surveyed, dict(zip((one.sequence.name for one in usable), scales, strict=True)))
    minutes = float(np.median([one.sequence.frames[-1] - one.sequence.frames[0] for one in usable])) * plan.minutes
    source = ImportedSource(kind="imported")
    index = DatasetIndex(
        source=source, micrometres=float(np.median(scales)), minutes=max(minutes, 1e-9), sequences=entries
    )
    write_index(index, folder)
    return load_dataset(folder)


def _reserve(path: Path, shape: tuple[int, ...]) -> None:
    """Make an array of zeros in a file that has its space on the disk: a map of a file without it ends the process.

    Raises
    ------
    OSError
        If there is no space.
    """
    partial = path.with_name(f".{path.stem}.{token_hex(4)}")
    try:
        np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=shape).flush()
        if hasattr(os, "posix_fallocate"):  # not on macOS
            with partial.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, partial.stat().st_size)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    partial.replace(path)


def load_shape(folder: Path, sequence: int, frame: int) -> CellShape:
    """Shape of a cell of an imported data set, in units of Ω: the truth that a model is evaluated against.

    Raises
    ------
    DatasetError
        If the folder does not hold it.
    """
    try:
        with np.load(_membranes(folder, sequence, frame), allow_pickle=False) as held:
            count = len(held.files) // 2
            return CellShape([Membrane(held[f"v{k}"].astype(np.float64), held[f"f{k}"]) for k in range(count)])
    except (FileNotFoundError, ValueError, KeyError) as error:
        raise DatasetError(f"{folder} does not hold frame {frame} of sequence {sequence}: {error}") from None


def stored_membrane(membrane: Membrane) -> Membrane:
    """Return a membrane as :func:`load_shape` gives it back."""
    return Membrane(membrane.vertices.astype(STORED).astype(np.float64), membrane.faces)


def _membranes(folder: Path, sequence: int, row: int) -> Path:
    return folder / MEMBRANES / f"{sequence:04d}" / f"{row:04d}.npz"


def _scales(usable: list[Surveyed], plan: ImportPlan) -> list[float]:
    """µm of one unit of Ω for each sequence."""
    if plan.micrometres is not None:
        return [plan.micrometres] * len(usable)
    own = [float(one.reaches.max()) / (1.0 - plan.margin) for one in usable]
    return own if plan.scale == "sequence" else [max(own)] * len(own)


def times_of(frames: list[int]) -> list[float] | None:
    """Return the times in τ of frames with gaps; None when there is none."""
    length = frames[-1] - frames[0] + 1
    if length == len(frames):
        return None
    return [frame_to_time(frame - frames[0], length) for frame in frames]


def _tasks(recordings: list[Recording], usable: list[Surveyed], scales: list[float]) -> list[_Task]:
    wanted: dict[tuple[int, int], _Task] = {}
    for sequence, (one, scale) in enumerate(zip(usable, scales, strict=True)):
        for row, (frame, labels) in enumerate(zip(one.sequence.frames, one.sequence.labels, strict=True)):
            task = wanted.setdefault((one.recording, frame), _Task(recordings[one.recording], frame, []))
            task.cells.append((sequence, row, labels, one.centres[row], scale))
    return list(wanted.values())


def _make_frame(job: tuple[_Task, Path, ImportPlan]) -> None:
    task, folder, plan = job
    labels = sorted({label for _, _, some, _, _ in task.cells for label in some})
    membranes = dict(zip(labels, task.recording.membranes(task.frame, labels), strict=True))
    for sequence, row, some, centre, scale in task.cells:
        shape = CellShape([membranes[label].placed(centre, scale) for label in some])
        surface = shape.sample(SURFACE_POINTS, np.random.default_rng([11, sequence, row]))
        block = np.load(folder / f"sequence_{sequence:04d}.npy", mmap_mode="r+")
        block[row] = sample_frame(
            shape, surface, plan.points_per_frame, sequence=sequence, frame=row, bend_share=plan.bend_share
        )
        block.flush()
        arrays: dict[str, NDArray[np.generic]] = {}
        for k, part in enumerate(shape.parts):
            arrays |= {f"v{k}": part.vertices.astype(STORED), f"f{k}": part.faces}
        path = _membranes(folder, sequence, row)
        partial = path.with_name(f".{path.stem}.{token_hex(4)}.npz")
        np.savez_compressed(partial, **arrays)  # type: ignore[arg-type]
        partial.replace(path)  # with it, and not before, the frame is made


_Mapped = Callable[[Callable[..., None], list[tuple[_Task, Path, ImportPlan]]], Iterator[None]]


@contextmanager
def _mapping(workers: int) -> Iterator[_Mapped]:
    """``map`` in this process, or over several."""
    if workers <= 1:
        yield map
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield pool.map


def _write_survey(folder: Path, surveyed: list[Surveyed], scales: dict[str, float]) -> None:
    """Write the findings, and the path of each cell, which the data set does not hold."""
    rows = [
        {
            "name": one.sequence.name,
            "imported": one.is_usable,
            "micrometres": scales.get(one.sequence.name),
            "frames": one.sequence.frames,
            "labels": [list(labels) for labels in one.sequence.labels],
            "centres_um": one.centres.round(4).tolist(),
            "volumes_um3": one.volumes.round(4).tolist(),
            "findings": [finding.model_dump() for finding in one.findings],
        }
        for one in surveyed
    ]
    (folder / SURVEY_FILE).write_text(json.dumps({"sequences": rows}, indent=1) + "\n", encoding="utf-8")
