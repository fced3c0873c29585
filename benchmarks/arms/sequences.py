"""The data sets of the comparison: phantoms of both classes, and real cells where there are any.

Every data set has training cells and held-out cells. Both kinds of training points, the released method's and ours, are
drawn from the same frames and kept in a folder. Masks stay where they are: links to them make the two groups.

Promises: held-out cells are no training cell's other clips; building again goes on where it stopped.
Does not promise: that 128³ voxels of a phantom are the 256³ of the release; a voxel is twice as wide there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.arms.published import sampled_frame
from model.domain import OMEGA, Grid, frame_times
from model.engine.runs import inside
from model.engine.sparse import evaluate_sparse
from model.evaluation.sequence_measures import processes
from model.evaluation.sequence_sources import HELD_OUT_SEED, PhantomSequences, RealSequences
from model.fitting.fit import TargetFrame
from model.learning.dataset import build_dataset
from model.learning.sources import MaskSource, PhantomSource, mask_files, mask_frames
from model.membranes.mask_surface import membrane_of_mask
from model.membranes.triangle_distance import CellShape, Membrane
from model.phantoms import make_phantom

Mask = NDArray[np.bool_]
Measurable = PhantomSequences | RealSequences
Group = Literal["training", "held-out"]
GROUPS: tuple[Group, Group] = ("training", "held-out")

POINTS = 8192  # of a frame, of both kinds
HELD_OUT_EVERY = 6  # of the real cells: 33 of the 39 of C. elegans are left, as many as were published
SURFACE_SIDE = 96  # cells along an edge of Ω of the grid on which the surface of a held-out phantom is found


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """One data set.

    Attributes
    ----------
    name, topology
        What it is called, and how its cells live.
    source, held_out
        Training cells; the cells that no arm sees.
    folder
        Where both kinds of points lie.
    side
        Samples along each side of Ω: of the released method's voxels for phantoms, and of every Dice.
    around_learned
        Whether the release draws new codes around learned ones.
    """

    name: str
    topology: Literal["single", "division"]
    source: PhantomSource | MaskSource
    held_out: PhantomSource | MaskSource
    folder: Path
    side: int
    around_learned: bool

    def samples(self, points: Literal["released", "ours"]) -> list[Any]:
        """Memory-mapped points, one array a training cell: (frames, n, 4) float32."""
        return [np.load(path, mmap_mode="r") for path in sorted((self.folder / points).glob("sequence_*.npy"))]

    def measurable(self, which: Group) -> Measurable:
        """Give one group of cells for measuring."""
        source = self.source if which == "training" else self.held_out
        if isinstance(source, MaskSource):
            return RealSequences.of(source, has_protrusions=False)
        return PhantomSequences(source.cell_type, source.first_seed, source.sequences)

    def target(self, cell: int) -> list[TargetFrame]:
        """All frames of a held-out cell, to fit to and to score the fit by."""
        source = self.held_out
        if isinstance(source, MaskSource):
            masks = mask_frames(mask_files(source)[cell])
            shapes = [CellShape([_membrane(mask)]) for mask in masks]
        else:
            phantom = make_phantom(source.cell_type, source.first_seed + cell)
            found = [phantom.shape(float(t), resolution=SURFACE_SIDE) for t in frame_times(source.frames)]
            shapes = [CellShape([Membrane(shape.vertices, shape.faces.astype(np.int32))]) for shape in found]
        return [TargetFrame(float(t), shape) for t, shape in zip(frame_times(len(shapes)), shapes, strict=True)]


def _membrane(mask: Mask) -> Membrane:
    step = Grid((mask.shape[0], mask.shape[1], mask.shape[2])).step
    membrane = membrane_of_mask(mask, (float(step[0]), float(step[1]), float(step[2])))
    return membrane.placed(np.full(3, -OMEGA[0]), 1.0)


def phantoms(
    cell_type: str, folder: Path, *, cells: int, frames: int, held_out: int, side: int, points: int = POINTS
) -> Sequences:
    """Describe a data set of procedural cells."""
    source = PhantomSource(cell_type=cell_type, sequences=cells, frames=frames, points_per_frame=points)
    return Sequences(
        name=cell_type,
        topology="division" if cell_type == "celegans" else "single",
        source=source,
        held_out=source.model_copy(update={"first_seed": HELD_OUT_SEED, "sequences": held_out}),
        folder=folder,
        side=side,
        around_learned=cell_type != "celegans",
    )


def real(
    name: str, masks: Path, folder: Path, *, cells: int | None, around_learned: bool, points: int = POINTS
) -> Sequences:
    """Describe a data set of masks: every sixth cell is held out, with all of its clips.

    Parameters
    ----------
    masks
        Folder of TIFF volumes; clips of one cell share what stands before ``_`` and their last number.
    cells
        Use only so many files; all when None.
    """
    files = sorted(masks.glob("*.tif"))[:cells]
    groups = split(files)
    for group, members in groups.items():
        _link(members, folder / "masks" / group)
    training, held_out = (
        MaskSource(kind="masks", folder=folder / "masks" / group, points_per_frame=points) for group in groups
    )
    first = mask_frames(files[0])
    return Sequences(
        name=name,
        topology="single",  # every frame of these masks shows one body
        source=training,
        held_out=held_out,
        folder=folder,
        side=first.shape[1],
        around_learned=around_learned,
    )


def split(files: list[Path]) -> dict[str, list[Path]]:
    """Part files into training and held-out ones; ``cell7_01`` and ``cell7_02`` are clips of one cell."""
    cell_of = {path: re.sub(r"(?<=\d)_\d+$", "", path.stem) for path in files}
    cells = sorted(set(cell_of.values()))
    apart = set(cells[min(HELD_OUT_EVERY // 2, len(cells) - 1) :: HELD_OUT_EVERY])
    return {
        "training": [path for path in files if cell_of[path] not in apart],
        "held-out": [path for path in files if cell_of[path] in apart],
    }


def _link(files: list[Path], folder: Path) -> None:
    """Make a folder of links to files, and to no others."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for path in files:
        (folder / path.name).symlink_to(path.resolve())


def build(sequences: Sequences, *, workers: int, say: Callable[[str], None] = lambda _line: None) -> None:
    """Draw both kinds of training points; what is there already is kept."""
    build_dataset(
        sequences.source,
        sequences.folder / "ours",
        workers=workers,
        on_sequence=lambda done, total: say(f"{sequences.name}: exact distances of {done} of {total} cells"),
    )
    released = sequences.folder / "released"
    released.mkdir(parents=True, exist_ok=True)
    count = len(sequences.samples("ours"))
    jobs = [(sequences.source, sequences.side, released, index) for index in range(count)]
    with processes(workers) as mapped:
        for done, _ in enumerate(mapped(_build_released, jobs), start=1):
            say(f"{sequences.name}: voxel distances of {done} of {count} cells")


def _build_released(job: tuple[PhantomSource | MaskSource, int, Path, int]) -> None:
    source, side, folder, index = job
    path = folder / f"sequence_{index:04d}.npy"
    if path.is_file():
        return
    frames = [
        sampled_frame(mask, np.random.default_rng([13, index, frame]), most=source.points_per_frame)
        for frame, mask in enumerate(masks_of(source, index, side=side))
    ]
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.save(file, np.stack(frames))
    partial.replace(path)


def masks_of(source: PhantomSource | MaskSource, index: int, *, side: int) -> Iterator[Mask]:
    """Yield what is inside in each frame of a cell, (nx, ny, nz): masks as they are, phantoms on ``side``³."""
    if isinstance(source, MaskSource):
        yield from mask_frames(mask_files(source)[index])
        return
    phantom, grid = make_phantom(source.cell_type, source.first_seed + index), Grid((side, side, side))
    for t in frame_times(source.frames):
        yield inside(evaluate_sparse(phantom.frame(float(t)), grid, lipschitz=1.05))
