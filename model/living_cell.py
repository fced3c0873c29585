"""One synthesised cell: drawn from a spec and a seed, then evaluated at any times on any grid.

    >>> from model.card import SHIPPED_MODELS
    >>> from model.domain import Grid, frame_times
    >>> from model.network.checkpoint import load_checkpoint
    >>> spec = GenerationSpec(model="celegans", seed=7).completed()
    >>> cell = draw(spec, load_checkpoint(SHIPPED_MODELS / "celegans"), 0)
    >>> for frame in cell.frames(frame_times(3), Grid((48, 48, 48))):
    ...     print(frame.time, frame.labelled.cells, frame.surface.euler_number)
    -1.0 (1,) 2
    0.0 (1,) 2
    1.0 (2, 3) 4

Promises: the same spec, checkpoint and index give the same cell.
Does not promise: that the cell is plausible; :attr:`LivingCell.rejected_codes` and
:func:`model.network.plausibility.implausible` tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from model.domain import TAU, Grid
from model.engine.gpu_sparse import evaluate_frames
from model.engine.marching_cubes import Surface, extract_surface
from model.engine.sparse import Exact, SignedDistance, cpu_frame_batch, evaluate_sequence
from model.engine.tracking import CellTracker, LabelledFrame
from model.engine.warp import Warp, Warped
from model.errors import EmptySurfaceError, InvalidFieldError
from model.membranes.triangle_distance import CellShape, Membrane
from model.network.autodecoder import FoldedDecoder
from model.network.checkpoint import Checkpoint
from model.network.composition import bind
from model.network.latent import balanced_centre, draw_code, draw_rotation, rotation_matrix, sequence_generator
from model.network.plausibility import draw_plausible_code
from model.network.stacked_decoders import StackedDecoders
from model.spec import GenerationSpec

PROCESSOR = torch.device("cpu")
SLOPE_SAMPLES = 2048  # points of a frame at which the slope is measured
STEEPEST = 1e3  # change of distance per unit of Ω above which a code is refused as noise; a true distance changes by 1
DEVICE_SIDE = 512  # samples a side up to which accelerators evaluate
KEPT = 16  # folded decoders of a cell, of less than a megabyte each; more than frames are computed at once
SAME_TIME = 1e-6  # difference in τ of two times that are the same: times are float32
SLOPE_MARGIN = 1.15  # over the largest slope measured, because the largest that exists lies between the points


class CellFrame(NamedTuple):
    """One frame of a cell: its time in τ, its cells told apart, and its surface in Ω."""

    time: float
    labelled: LabelledFrame
    surface: Surface


@dataclass(frozen=True, kw_only=True)
class Variation:
    """What changes a cell without changing its code.

    Attributes
    ----------
    mirrored
        Whether x is mirrored, before the rotation.
    size
        Factor on lengths.
    speed
        Factor on speed, at most 1; so much of the cell's life is shown.
    begin
        Moment of its life at which the first frame lies, in τ.
    warp
        Bends the space in which the cell lies, the same at all times; None leaves it straight.
    """

    mirrored: bool = False
    size: float = 1.0
    speed: float = 1.0
    begin: float = -1.0
    warp: Warp | None = None


AS_IT_IS = Variation()


@dataclass(frozen=True)
class LivingCell:
    """One synthesised sequence: a code, a rotation, and the decoder that knows both.

    Attributes
    ----------
    latent
        (c,) float32, or a composed one (:mod:`model.network.composition`).
    rotation
        Unit quaternion [w, x, y, z].
    rejected_codes
        Codes rejected as implausible before this one.
    variation
        Mirror image, size, speed and warp.
    kept
        Times at which the cell has a given shape instead of the decoder's, and these shapes.
    """

    checkpoint: Checkpoint
    latent: NDArray[np.float32]
    rotation: list[float]
    rejected_codes: int = 0
    variation: Variation = AS_IT_IS
    kept: tuple[tuple[float, CellShape], ...] = ()

    def shape(self, time: float, *, threads: int | None = None) -> SignedDistance:
        """Function whose sign tells the cell's inside at a time in τ: the decoder, bent by the variation's warp.

        Without a warp it is as much a distance as the decoder's; with one, within the factors of
        :mod:`model.engine.warp`.
        """
        if (given := self._kept_at(time)) is not None:
            return given
        straight = partial(self.at(time), threads=threads)
        return straight if self.variation.warp is None else Warped(straight, self.variation.warp)

    def _kept_at(self, time: float) -> CellShape | None:
        return next((shape for moment, shape in self.kept if abs(moment - time) < SAME_TIME), None)

    def distances(self, time: float, surface: Surface) -> SignedDistance:
        """Signed distances at a time: the decoder's, or, of a warped or composed cell, those from its surface."""
        if self.variation.warp is None and len(self.latent) == self.checkpoint.decoder.config.latent_size:
            return lambda points: self.shape(time)(points)
        membrane = Membrane(surface.vertices.astype(np.float64), surface.faces)
        exact = cache(lambda: CellShape([membrane]))  # its tree is built on first use
        return lambda points: exact()(points)

    def at(self, time: float) -> FoldedDecoder:
        """Signed distance function of the cell at a time in τ, without its variation's warp; the latest are kept."""
        return self._folded(time)

    @cached_property
    def _folded(self) -> Callable[[float], FoldedDecoder]:
        return lru_cache(maxsize=KEPT)(self._fold)

    def _fold(self, time: float) -> FoldedDecoder:
        matrix, decoder = rotation_matrix(self.rotation), self.checkpoint.decoder
        if self.variation is AS_IT_IS:
            return bind(decoder, self.latent, time, torch.from_numpy(matrix))
        change = self.variation
        if change.mirrored:
            matrix = matrix * np.array([-1.0, 1.0, 1.0])
        moment = min(change.begin + change.speed * (time - TAU[0]), TAU[1])
        # Distances grow with the lengths.
        return bind(decoder, self.latent, moment, torch.from_numpy(matrix / change.size)).scaled(change.size)

    def lipschitz(self) -> float:
        """Bound of the change of :meth:`shape` per unit of Ω, from slopes sampled over Ω and τ.

        A bound taken from the training codes alone does not hold for other codes, so each code is measured.

        Raises
        ------
        InvalidFieldError
            If the slope is that of noise, or NaN.
        """
        points = np.random.default_rng(0).uniform(-1.0, 1.0, (SLOPE_SAMPLES, 3)).astype(np.float32)
        steepest = max(float(self.at(float(t)).slopes(points).max()) for t in np.linspace(*TAU, 7))
        if not steepest < STEEPEST:  # NaN too
            raise InvalidFieldError(
                f"the signed distance changes by {steepest:.3g} per unit of Ω, a true one by 1: this code lies far "
                "from those the model learned; try a lower temperature or another code"
            )
        bend = 0.0 if self.variation.warp is None else self.variation.warp.strength
        least = 1.0 if self.kept else 0.0  # of given shapes, which have exact distances
        return SLOPE_MARGIN * max(steepest, least) * (1.0 + bend)

    def frames(
        self,
        times: NDArray[np.float32],
        grid: Grid,
        *,
        tracker: CellTracker | None = None,
        exact: Exact = "adaptive",
        device: torch.device = PROCESSOR,
    ) -> Iterator[CellFrame]:
        """Evaluate the cell at some times on a grid.

        Parameters
        ----------
        times
            (T,) in τ, increasing.
        grid
            Where to sample.
        tracker
            Labels the cells, and holds their tracks afterwards; by default one that follows divisions where the model's
            cells divide.
        exact
            As :func:`model.engine.sparse.evaluate_sparse` takes it. On an accelerator it is always ``certified``.
        device
            Where to compute; grids over 512 samples a side on the processor.

        Yields
        ------
        CellFrame
            In order. On the processor as many frames are in memory as torch has threads, and a frame's field is
            overwritten by a later one's, its labels and surface stay; an accelerator holds as many frames as its memory
            takes, and no field.

        Raises
        ------
        EmptySurfaceError
            When a frame without a membrane is asked for; the message names it.
        InvalidFieldError
            If a distance is NaN or infinite, or changes too fast.
        SurfaceError
            If a surface encloses no volume.
        """
        if tracker is None:
            tracker = CellTracker(divides=self.checkpoint.card.topology == "division")
        bent = self.variation.warp is not None or self.kept  # accelerators know straight decoders only
        alone = bent or device.type == "cpu" or max(grid.shape) > DEVICE_SIDE
        evaluate = self._on_processor if alone else partial(self._on_device, device=device)
        yield from evaluate(times, grid, tracker, exact)

    def _on_processor(
        self, times: NDArray[np.float32], grid: Grid, tracker: CellTracker, exact: Exact
    ) -> Iterator[CellFrame]:
        threads = torch.get_num_threads()
        batch = cpu_frame_batch(grid, threads) if len(times) > 1 else 1
        fields = evaluate_sequence(
            lambda time: self.shape(time, threads=threads // batch),
            [float(time) for time in times],
            grid,
            lipschitz=self.lipschitz(),
            exact=exact,
            threads=batch,
        )
        for number, time in enumerate(times):
            try:
                field = next(fields)
                labelled = tracker.update(field)
            except EmptySurfaceError as error:
                raise EmptySurfaceError(f"frame {number} (t = {time:.3f}): {error}") from None
            left = field if labelled.field is None else labelled.field
            yield CellFrame(float(time), labelled, extract_surface(left, grid, inside=labelled.runs))

    def _on_device(
        self, times: NDArray[np.float32], grid: Grid, tracker: CellTracker, _exact: Exact, *, device: torch.device
    ) -> Iterator[CellFrame]:
        sdf = StackedDecoders([self.at(float(time)) for time in times], device)
        made = evaluate_frames(sdf, grid, frames=len(times), lipschitz=self.lipschitz(), device=device)
        for time, frame in zip(times, made, strict=True):
            labelled = tracker.update(None, found=frame.runs)
            surface = frame.surface
            if labelled.fragments and not tracker.keeps_fragments:
                surface = frame.largest(int(frame.runs.labels.max()) - labelled.fragments)
            yield CellFrame(float(time), labelled, surface)


def draw(spec: GenerationSpec, checkpoint: Checkpoint, index: int) -> LivingCell:
    """Draw the cell of one sequence of a spec.

    Parameters
    ----------
    spec
        A completed spec that suits the model.
    checkpoint
        The model it names.
    index
        Number of the sequence, from 0.

    Returns
    -------
    LivingCell
        If every code drawn was rejected, the last one.
    """
    rng = sequence_generator(spec, index)
    rotation = draw_rotation(spec, rng)
    if spec.latent.kind == "sampled":
        around = balanced_centre(spec, index, len(checkpoint.latent_codes))
        code, rejected = draw_plausible_code(spec.latent, checkpoint, rng, around=around)
    else:
        code, rejected = draw_code(spec.latent, prior=checkpoint.prior, rng=rng), 0
    return LivingCell(checkpoint, code, rotation, rejected)
