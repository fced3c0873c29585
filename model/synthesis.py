"""The whole story on one page: from a spec and a checkpoint to files.

For each sequence: draw a code and a rotation from the seed, fold them into the decoder frame by frame, evaluate the
signed distance near the membrane, tell the cells apart, extract the surface, write. Frames stream: as many are
computed at once as there are threads, and one is written meanwhile; no more are in memory, whatever the length.

Promises: the same completed spec, checkpoint, software and kind of device give the same bytes.
Does not promise: atomicity; the caller hands over a folder of its own and publishes it when this returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from model import __version__
from model.domain import TAU, Grid, frame_times
from model.engine.gpu_sparse import evaluate_frames
from model.engine.marching_cubes import Surface, extract_surface
from model.engine.sparse import Exact, cpu_frame_batch, evaluate_sequence
from model.engine.tracking import CellTracker, LabelledFrame
from model.errors import EmptySurfaceError, ImplausibleError, InvalidFieldError, SpecError
from model.export.exporter import CellFiles, Exporter, ExportFrame
from model.export.frame_writers import open_writers
from model.network.autodecoder import FoldedDecoder
from model.network.checkpoint import Checkpoint
from model.network.latent import balanced_centre, draw_code, draw_rotation, rotation_matrix, sequence_generator
from model.network.plausibility import draw_plausible_code, implausible
from model.network.stacked_decoders import StackedDecoders
from model.spec import GenerationSpec

Device = Literal["auto", "cpu", "cuda"]
PROCESSOR = torch.device("cpu")

SLOPE_SAMPLES = 2048  # points a frame at which the slope is measured
STEEPEST = 1e3  # a slope from which a field is noise
SLOPE_MARGIN = 1.15  # over the largest slope seen; the largest that exists lies between the samples


@dataclass(frozen=True)
class Progress:
    """How far the work has come: ``frame`` of ``frames`` done, over all sequences."""

    stage: str
    frame: int
    frames: int


@dataclass(frozen=True)
class LivingCell:
    """One synthesised cell, whole: a code, a rotation, and the decoder that knows both.

    Attributes
    ----------
    latent
        (c,) float32.
    rotation
        Unit quaternion [w, x, y, z].
    """

    checkpoint: Checkpoint
    latent: NDArray[np.float32]
    rotation: list[float]

    def at(self, time: float) -> FoldedDecoder:
        """Signed distance function of the cell at a time in τ."""
        matrix = torch.from_numpy(rotation_matrix(self.rotation))
        return self.checkpoint.decoder.fold(torch.from_numpy(self.latent), time, matrix)

    def lipschitz(self) -> float:
        """Bound of the change of the signed distance per unit of Ω, from slopes sampled over Ω and τ.

        A bound taken from the training codes alone does not hold for other codes, so each code is measured.
        """
        points = np.random.default_rng(0).uniform(-1.0, 1.0, (SLOPE_SAMPLES, 3)).astype(np.float32)
        steepest = max(float(self.at(float(t)).slopes(points).max()) for t in np.linspace(*TAU, 7))
        if not steepest < STEEPEST:  # NaN too
            raise InvalidFieldError(
                f"the signed distance changes by {steepest:.3g} per unit of Ω, a true one by 1: this code lies far "
                "from those the model learned; try a lower temperature or another code"
            )
        return SLOPE_MARGIN * steepest


def synthesize(
    spec: GenerationSpec,
    checkpoint: Checkpoint,
    folder: Path,
    *,
    on_progress: Callable[[Progress], None] = lambda _progress: None,
    device: Device = "cpu",
) -> dict[str, Any]:
    """Make what a spec describes and write it, frame by frame, the manifest last.

    Parameters
    ----------
    spec
        A completed spec.
    checkpoint
        The model it names.
    folder
        Where files go: ``manifest.json`` and a folder a cell, ``cell_0000/frame_0000.stl`` …
    on_progress
        Called after every frame; an exception raised there ends the work.
    device
        Where to compute; ``auto``: on an accelerator if there is one. That path agrees with the processor's in every
        test, run on a processor; it has not seen a GPU yet, so it must be asked for.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    SpecError
        If the model cannot have the spec's latent.
    ImplausibleError
        If the gate rejects every code drawn for a sequence, and the spec's ``on_implausible`` is ``fail``.
    SurfaceError
        If a frame holds no membrane, or the decoder gives NaN.
    ExportError
        If a file cannot be written.
    """
    card = checkpoint.card
    spec.check_fits(latent_codes=len(checkpoint.latent_codes), latent_size=checkpoint.decoder.config.latent_size)
    exporter = Exporter(folder, grid=Grid(spec.grid_shape), micrometres=card.micrometres, minutes=card.minutes)
    total = spec.count * spec.frame_count
    place = compute_device(device)
    cells, warnings = [], []
    for index in range(spec.count):

        def after_frame(frame: int, *, base: int = index * spec.frame_count) -> None:
            on_progress(Progress("frames", base + frame, total))

        cell, rejected = living_cell(spec, checkpoint, index)
        doubt = implausible(rejected, spec=spec, cell=index, topology=card.topology)
        if doubt is not None and spec.on_implausible == "fail":
            raise ImplausibleError(doubt)
        if doubt is not None:
            warnings.append({"code": ImplausibleError.code, "message": f"{doubt}. The draw after them was written"})
        cells.append(
            _write_cell(spec, cell, exporter, index=index, rejected=rejected, after_frame=after_frame, device=place)
        )
    return exporter.write_manifest(
        spec=spec.model_dump(mode="json"),
        model_id=card.id,
        model_sha256=card.sha256,
        version=__version__,
        device_class=place.type,
        cells=cells,
        warnings=warnings,
    )


def compute_device(asked: Device) -> torch.device:
    """Device to compute on; the processor where ``auto`` finds no accelerator.

    Raises
    ------
    SpecError
        If an accelerator is asked for and there is none.
    """
    if asked == "cuda" and not torch.cuda.is_available():
        raise SpecError("this machine has no CUDA device; compute on cpu or auto")
    return torch.device("cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu")


def living_cell(spec: GenerationSpec, checkpoint: Checkpoint, index: int) -> tuple[LivingCell, int]:
    """Draw the cell of one sequence of a spec.

    Returns
    -------
    tuple of LivingCell and int
        The cell, and how many codes were rejected as implausible before it.
    """
    rng = sequence_generator(spec, index)
    rotation = draw_rotation(spec, rng)
    if spec.latent.kind == "sampled":
        around = balanced_centre(spec, index, len(checkpoint.latent_codes))
        code, rejected = draw_plausible_code(spec.latent, checkpoint, rng, around=around)
    else:
        code, rejected = draw_code(spec.latent, prior=checkpoint.prior, rng=rng), 0
    return LivingCell(checkpoint, code, rotation), rejected


def frames(
    cell: LivingCell,
    times: NDArray[np.float32],
    grid: Grid,
    tracker: CellTracker,
    *,
    exact: Exact = "adaptive",
    device: torch.device = PROCESSOR,
) -> Iterator[tuple[float, LabelledFrame, Surface]]:
    """Yield time, labels and surface of each frame of a cell; as many in memory as there are threads.

    The field of a frame is overwritten by a later one's; its runs, labels and surface stay. On an
    accelerator, which takes as many frames at once as its memory holds, there is no field.
    """
    if device.type != "cpu":
        yield from _frames_on_device(cell, times, grid, tracker, device=device)
        return
    threads = torch.get_num_threads()
    at_once = cpu_frame_batch(grid, threads) if len(times) > 1 else 1
    fields = evaluate_sequence(
        lambda time: partial(cell.at(time), threads=threads // at_once),
        [float(time) for time in times],
        grid,
        lipschitz=cell.lipschitz(),
        exact=exact,
        threads=at_once,
    )
    for number, time in enumerate(times):
        try:
            field = next(fields)
            labelled = tracker.update(field)
        except EmptySurfaceError as error:
            raise EmptySurfaceError(f"frame {number} (t = {time:.3f}): {error}") from None
        left = field if labelled.field is None else labelled.field
        yield float(time), labelled, extract_surface(left, grid, inside=labelled.runs)


def _frames_on_device(
    cell: LivingCell, times: NDArray[np.float32], grid: Grid, tracker: CellTracker, *, device: torch.device
) -> Iterator[tuple[float, LabelledFrame, Surface]]:
    """Yield time, labels and surface of each frame, evaluated many frames at a time on a torch device."""
    sdf = StackedDecoders([cell.at(float(time)) for time in times], device)
    made = evaluate_frames(sdf, grid, frames=len(times), lipschitz=cell.lipschitz(), device=device)
    for time, frame in zip(times, made, strict=True):
        labelled = tracker.update(None, found=frame.runs)
        surface = frame.surface
        if labelled.fragments and not tracker.keeps_fragments:
            surface = frame.largest(int(frame.runs.labels.max()) - labelled.fragments)
        yield float(time), labelled, surface


def _write_cell(
    spec: GenerationSpec,
    cell: LivingCell,
    exporter: Exporter,
    *,
    index: int,
    rejected: int,
    after_frame: Callable[[int], None],
    device: torch.device,
) -> dict[str, Any]:
    checkpoint = cell.checkpoint
    times = frame_times(spec.frame_count) if spec.times is None else np.array(spec.times, dtype=np.float32)
    tracker = CellTracker(fragments=spec.fragments, divides=checkpoint.card.topology == "division")
    name = f"cell_{index:04d}"
    cubic = checkpoint.card.micrometres**3
    rows: list[dict[str, Any]] = []
    files = CellFiles(exporter=exporter, name=name, times=[float(t) for t in times], palette=checkpoint.card.cell_type)
    with open_writers(spec.formats, files) as write_files:

        def write(number: int, time: float, labelled: LabelledFrame, surface: Surface) -> None:
            write_files(ExportFrame(number=number, time=time, surface=surface, labelled=labelled))
            rows.append(
                {
                    "frame": number,
                    "time": time,
                    "minutes": round(exporter.minutes_at(time), 6),
                    "labels": list(labelled.cells),
                    "volume_um3": round(surface.volume * cubic, 3),
                    "area_um2": round(surface.area * checkpoint.card.micrometres**2, 3),
                    "fragments": labelled.fragments,
                }
            )

        _pipeline(frames(cell, times, exporter.grid, tracker, exact=spec.exact, device=device), write, after_frame)
    return {
        "index": index,
        "seed": spec.seed,
        "latent": [float(value) for value in cell.latent],
        "rotation": cell.rotation,
        "rejected_codes": rejected,
        "tracks": [asdict(track) for track in tracker.tracks],
        "frames": rows,
    }


def _pipeline(
    made: Iterator[tuple[float, LabelledFrame, Surface]],
    write: Callable[[int, float, LabelledFrame, Surface], None],
    after_frame: Callable[[int], None],
) -> None:
    """Write each frame in another thread while the next is computed."""
    number = 0
    with ThreadPoolExecutor(1, thread_name_prefix="writer") as writer:
        writing: Future[None] | None = None
        for number, frame in enumerate(made, start=1):
            if writing is not None:
                writing.result()
                after_frame(number - 1)
            writing = writer.submit(write, number - 1, *frame)
        if writing is not None:
            writing.result()
            after_frame(number)
