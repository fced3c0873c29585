"""The plausibility check: rejects newly drawn codes that do not give a plausible cell.

A code far from the learned ones can give a cell that falls apart, fuses again or vanishes. The check evaluates the cell
on a coarse grid over its whole sequence and counts its bodies. A cell that its topology does not allow is rejected, and
another code is drawn.

Promises: deterministic; the number of rejections is reported.
Does not promise: that a finer grid shows the same bodies; see docs/explanation/science.md for what was measured.

The check skips grid blocks by the Lipschitz bound of the card, which was measured on learned codes and does not hold
for every other code. ``python -m benchmarks.gate`` compares it with the evaluation of every sample of its grid. For
640 codes, 80 each of both shipped models at temperatures 0.5, 1, 1.5 and 2, the bound measured for the code was over
the card's 36 times, by up to a factor of 1.2. Results, counts of bodies and inside samples were the same for all 640.
So the check keeps the card's bound: the bound of each code would take another 57,344 evaluations a draw and change
none of those results. A bound too small can only lose bodies that lie apart from all others, never add one; of a cell
that divides, a lost daughter makes the check refuse a good code, and of any cell, a lost second body makes it pass a
bad one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from model.domain import Grid, frame_times
from model.engine.runs import bodies
from model.engine.sparse import SignedDistance, evaluate_sequence
from model.engine.tracking import FRAGMENT
from model.errors import EmptySurfaceError
from model.network.checkpoint import Checkpoint
from model.network.composition import bind
from model.network.latent import Floats
from model.spec import GenerationSpec, SampledLatent

GATE_GRID = Grid((40, 40, 40))
GATE_FRAMES = 16  # evenly spaced over τ; more find shorter faults and take longer
ATTEMPTS = 16  # codes drawn before the check gives up; the last one is kept and the count reported
REMEMBERED = 4096  # results a process keeps, of some 100 bytes each
LARGEST_JUMP = 0.25  # largest plausible change of volume between its frames, relative; twice as far apart as 30 frames

_KNOWN: dict[tuple[str, float, str, bytes], bool] = {}


def is_plausible(
    counts: list[int],
    volumes: NDArray[np.float64],
    topology: Literal["single", "division"],
    *,
    largest_jump: float = LARGEST_JUMP,
) -> bool:
    """Decide whether a sequence is plausible, by its bodies and volumes over time.

    Parameters
    ----------
    counts
        Bodies in each frame, fragments left out.
    volumes
        Inside samples of each frame.
    topology
        ``single``: one body always; ``division``: one body, then two, changed once.
    largest_jump
        Allowed change of the volume from one frame to the next, as a share of it.
    """
    if topology == "single":
        bodies = all(count == 1 for count in counts)
    else:
        bodies = counts[0] == 1 and counts[-1] == 2 and all(b - a in (0, 1) for a, b in pairwise(counts))
    jumps = np.abs(np.diff(volumes)) / np.maximum(volumes[:-1], 1.0)
    return bodies and bool((jumps < largest_jump).all())


def draw_plausible_code(
    latent: SampledLatent, checkpoint: Checkpoint, rng: np.random.Generator, *, around: int | None = None
) -> tuple[Floats, int]:
    """Draw codes from the prior until one gives a plausible sequence.

    Parameters
    ----------
    latent
        The spec's.
    checkpoint
        The model.
    rng
        Source of randomness.
    around
        Number of the learned code to start from; any, when None. If the first draw is refused, the next start from any.

    Returns
    -------
    tuple
        The code, (c,) or composed, and how many were rejected before it.
    """
    code = checkpoint.prior.draw(rng, temperature=latent.temperature, around=around)
    for rejected in range(ATTEMPTS):
        if is_plausible_code(checkpoint, code):
            return code, rejected
        code = checkpoint.prior.draw(rng, temperature=latent.temperature)
    return code, ATTEMPTS


def is_plausible_code(checkpoint: Checkpoint, code: Floats) -> bool:
    """Whether a code gives a plausible sequence: :func:`is_plausible` of :func:`bodies_over_time`, at less cost.

    The evaluation stops at the first frame that settles a rejection. The results of the last :data:`REMEMBERED` codes
    are kept, for a cell is often asked for again with another grid or other times. A field with values that are not
    finite after that frame is not noticed.
    """
    key = (checkpoint.card.sha256, checkpoint.card.lipschitz, checkpoint.card.topology, code.tobytes())
    if key not in _KNOWN:
        observed = _bodies_by_frame(checkpoint, code, grid=GATE_GRID, frames=GATE_FRAMES)
        plausible = first_fault(observed, checkpoint.card.topology) is None
        while len(_KNOWN) >= REMEMBERED:
            _KNOWN.pop(next(iter(_KNOWN)), None)
        _KNOWN[key] = plausible
    return _KNOWN[key]


def first_fault(observed: Iterable[tuple[int, float]], topology: Literal["single", "division"]) -> int | None:
    """Return the number of the first frame with which a sequence is implausible, and read no further.

    Parameters
    ----------
    observed
        Bodies and inside samples of each frame, from the first.

    Returns
    -------
    int or None
        The number of frames for a sequence that lacks what must come, a division; None for a plausible one.
    """
    counts: list[int] = []
    volumes: list[float] = []
    for frame, (count, volume) in enumerate(observed):
        counts.append(count)
        volumes.append(volume)
        # What is_plausible refuses of the first frames, it refuses of all; only a division may still come.
        awaited = [2] if topology == "division" and count == 1 else []
        if not is_plausible(counts + awaited, np.array(volumes + [volume] * len(awaited)), topology):
            return frame
    return None if counts and is_plausible(counts, np.array(volumes), topology) else len(counts)


def implausible(rejected: int, *, spec: GenerationSpec, cell: int, topology: str) -> str | None:
    """Say in a sentence that every code checked for a sequence was rejected; None if one was accepted."""
    if rejected < ATTEMPTS or spec.latent.kind != "sampled":
        return None
    allowed = "one body throughout" if topology == "single" else "one body that divides in two once"
    return (
        f"cell {cell}: the {ATTEMPTS} codes drawn at temperature {spec.latent.temperature:g} were all rejected as "
        f"implausible; the model's topology is {topology!r}, which allows {allowed} without jumps in volume. Try "
        "another seed or a lower temperature; if most cells are rejected, check topology and lipschitz in the model's "
        "card"
    )


def bodies_over_time(
    checkpoint: Checkpoint, code: Floats, *, grid: Grid = GATE_GRID, frames: int = GATE_FRAMES
) -> tuple[list[int], NDArray[np.float64]]:
    """Count the bodies, fragments left out, and the inside samples of a cell over its sequence.

    Returns
    -------
    tuple
        Bodies in each frame, and samples inside in each frame (T,).
    """
    return _counted(list(_bodies_by_frame(checkpoint, code, grid=grid, frames=frames)))


def count_bodies(
    at: Callable[[float], SignedDistance], *, lipschitz: float, grid: Grid = GATE_GRID, frames: int = GATE_FRAMES
) -> tuple[list[int], NDArray[np.float64]]:
    """Count the bodies and inside samples of any shape over τ, as :func:`bodies_over_time` does of a code's cell."""
    return _counted(list(_observe(at, lipschitz=lipschitz, grid=grid, frames=frames)))


def _counted(observed: list[tuple[int, float]]) -> tuple[list[int], NDArray[np.float64]]:
    if observed[-1] == (0, 0.0):
        return [0], np.zeros(1)
    return [count for count, _ in observed], np.array([volume for _, volume in observed])


def _bodies_by_frame(checkpoint: Checkpoint, code: Floats, *, grid: Grid, frames: int) -> Iterator[tuple[int, float]]:
    """Yield bodies and inside samples of each frame; a frame without a membrane has none, and is the last."""

    def at(time: float) -> SignedDistance:
        return partial(bind(checkpoint.decoder, code, time), threads=1)

    return _observe(at, lipschitz=checkpoint.card.lipschitz, grid=grid, frames=frames)


def _observe(
    at: Callable[[float], SignedDistance], *, lipschitz: float, grid: Grid, frames: int
) -> Iterator[tuple[int, float]]:
    fields = evaluate_sequence(
        at, frame_times(frames).tolist(), grid, lipschitz=lipschitz, threads=torch.get_num_threads()
    )
    try:
        for field in fields:
            sizes = bodies(field).sizes()[1:]
            yield int((sizes >= FRAGMENT * sizes.sum()).sum()), float(sizes.sum())
    except EmptySurfaceError:
        yield 0, 0.0
