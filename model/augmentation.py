"""Augmentation: variations of one cell, each with its strength.

A variation has noise in its code, a rotation, perhaps a mirror image, a size, a speed, and perhaps a smooth warp. The
cell passes the check that drawn codes pass (:mod:`model.network.plausibility`); noise and warp are halved until it
does, in the end to nothing. An uploaded cell is fitted first, as a reconstruction fits it.

Promises: the same spec and checkpoint give the same bytes; rotation, mirror and size change no shape, only how it
lies and how large it is, and distances stay distances. A warp is a bijection, so it neither joins nor divides bodies;
the distances in files of a warped cell are exact ones to the surface in the files.
Does not promise: that a source which is itself implausible gives plausible variations; distances beyond Ω of a warped
cell that leaves it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.augmentation_spec import AugmentationSpec, ExplicitCell, LearnedCell, UploadedCell
from model.domain import TAU
from model.engine.warp import Warp
from model.errors import SpecError
from model.fitting.fit_output import FIT_FILE, fit_model, write_document
from model.fitting.given_cell import ADAPTED_FOLDER, plan_of, read_given
from model.living_cell import LivingCell, Variation
from model.network.checkpoint import Checkpoint
from model.network.composition import spread_of
from model.network.latent import draw_rotation
from model.network.plausibility import bodies_over_time, count_bodies, is_plausible
from model.output.manifest import ModelEntry, WarningEntry, amend_manifest
from model.spec import ExplicitLatent
from model.synthesis import Device, Progress, synthesize

AUGMENTATION_FILE = "augmentation.json"
SCORE_GRID = 64  # samples along each side on which the fit of an uploaded cell is scored
ATTEMPTS = 6  # codes checked, each with half the noise of the one before


@dataclass(frozen=True, kw_only=True)
class Strength:
    """How far one variation lies from its source.

    Attributes
    ----------
    noise
        Standard deviation of the noise that was used.
    code_distance
        Root mean square of the change of the code, in units of the learned codes' spread.
    rejected
        Codes rejected before this one.
    warp
        Bound of the stretching of lengths that was used.
    """

    noise: float
    code_distance: float
    rejected: int
    warp: float = 0.0


@dataclass(frozen=True, kw_only=True)
class _Base:
    """The cell that is varied.

    Attributes
    ----------
    checkpoint
        The model that its code belongs to: the one asked for, or one adapted to it.
    code, rotation
        Of the cell.
    spread
        (c,) standard deviation of the learned codes of the model asked for.
    """

    checkpoint: Checkpoint
    code: NDArray[np.float64]
    rotation: list[float]
    spread: NDArray[np.float64]


def augment(
    spec: AugmentationSpec,
    checkpoint: Checkpoint,
    folder: Path,
    *,
    sources: Sequence[Path] = (),
    on_progress: Callable[[Progress], None] = lambda _progress: None,
    device: Device = "cpu",
) -> None:
    """Write the variations of a cell into a folder, the manifest last.

    Parameters
    ----------
    spec
        A completed spec.
    checkpoint, on_progress, device
        As for :func:`model.synthesis.synthesize`.
    folder
        Gets a folder for each variation, ``augmentation.json`` with the strength of each, ``manifest.json``, and, of
        an uploaded cell, ``fit.json`` and the adapted network in ``fitted/``.
    sources
        The files that the spec's uploads name, in their order.

    Raises
    ------
    SpecError, SurfaceError, ExportError
        As for :func:`model.synthesis.synthesize`.
    DatasetError
        If the files do not show one cell of the model's size.
    """
    rows: list[dict[str, Any]] = []
    fit = _fitted(spec, checkpoint, sources, folder, on_progress) if isinstance(spec.source, UploadedCell) else None
    base = fit.base if fit is not None else _source(spec, checkpoint)

    def vary(index: int) -> LivingCell:
        cell, strength = _vary(spec, base, index)
        rows.append(
            {
                "cell": index,
                "noise": strength.noise,
                "code_distance": round(strength.code_distance, 4),
                "rejected_codes": strength.rejected,
                "rotation": cell.rotation,
                "mirrored": cell.variation.mirrored,
                "size": cell.variation.size,
                "speed": cell.variation.speed,
                "warp": strength.warp,
                "begins_at": cell.variation.begin,
            }
        )
        return cell

    steps = fit.steps if fit is not None else 0

    def after_frame(progress: Progress) -> None:
        on_progress(Progress(progress.stage, steps + progress.frame, steps + progress.frames))

    synthesize(spec.written, base.checkpoint, folder, on_progress=after_frame, device=device, draw=vary)
    text = json.dumps({"source": spec.source.model_dump(mode="json"), "cells": rows}, indent=1)
    (folder / AUGMENTATION_FILE).write_text(text + "\n", encoding="utf-8")
    amend_manifest(
        folder,
        spec=spec.model_dump(mode="json"),
        beside=[folder / AUGMENTATION_FILE, *(fit.files if fit is not None else [])],
        base=ModelEntry(id=checkpoint.card.id, sha256=checkpoint.card.sha256) if fit is not None else None,
        generated=False,
        warnings=[
            WarningEntry(code="doubtful_reading", message=one) for one in (fit.warnings if fit is not None else [])
        ],
    )


@dataclass(frozen=True, kw_only=True)
class _Fit:
    """A cell that was uploaded and fitted: the files that tell of it, what was doubtful, and the steps it took."""

    base: _Base
    files: list[Path]
    warnings: list[str]
    steps: int


def _fitted(
    spec: AugmentationSpec,
    checkpoint: Checkpoint,
    sources: Sequence[Path],
    folder: Path,
    on_progress: Callable[[Progress], None],
) -> _Fit:
    given = spec.source
    assert isinstance(given, UploadedCell)
    target, warnings = read_given(given, list(sources), checkpoint.card)
    plan = plan_of(given, seed=given.seed)
    total = plan.all_steps + spec.written.frame_total
    document, owner, recipe = fit_model(
        checkpoint, target, folder / ADAPTED_FOLDER, plan=plan, score_grid=SCORE_GRID,
        spec={"frames": spec.frames, "times": spec.times, "grid": spec.grid, "formats": spec.formats},
        on_step=lambda step, _steps, _error: on_progress(Progress("fitting", step, total)),
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    write_document(document, folder / FIT_FILE)
    assert isinstance(recipe.latent, ExplicitLatent)
    rotation = draw_rotation(recipe, np.random.default_rng(0))
    base = _Base(checkpoint=owner, code=np.array(recipe.latent.values), rotation=rotation, spread=_spread(checkpoint))
    files = [folder / FIT_FILE, *sorted((folder / ADAPTED_FOLDER).glob("*"))]
    return _Fit(base=base, files=files, warnings=warnings, steps=plan.all_steps)


def _spread(checkpoint: Checkpoint) -> NDArray[np.float64]:
    return np.asarray(checkpoint.prior.centres.astype(np.float64).std(axis=0))


def draw_variation(spec: AugmentationSpec, checkpoint: Checkpoint, index: int) -> tuple[LivingCell, Strength]:
    """Draw one variation of a source that has a code, numbered from 0."""
    return _vary(spec, _source(spec, checkpoint), index)


def warp_of(strength: float, *, seed: int, index: int) -> Warp | None:
    """Return the warp of a variation by its strength; None if it has none."""
    return Warp.draw(strength, np.random.default_rng([seed, index, 1])) if strength else None


def _vary(spec: AugmentationSpec, base: _Base, index: int) -> tuple[LivingCell, Strength]:
    rng = np.random.default_rng([spec.seed or 0, index])
    size, speed = _between(spec.size, rng), _between(spec.speed, rng)
    begin = float(-1.0 + 2.0 * (1.0 - speed) * rng.random())
    mirrored = bool(rng.random() < 0.5) and spec.mirror
    turned = draw_rotation(spec.written.model_copy(update={"rotation": "random"}), rng)
    chosen = turned if spec.rotation == "random" else base.rotation
    rejected = 0
    spread = spread_of(base.code, base.spread)
    while True:
        share = 0.5**rejected if rejected < ATTEMPTS else 0.0
        noise, bend = share * spec.noise, share * spec.warp
        code = np.asarray(base.code + noise * spread * rng.standard_normal(len(base.code)), dtype=np.float32)
        variation = Variation(
            mirrored=mirrored, size=size, speed=speed, begin=begin, warp=warp_of(bend, seed=spec.seed or 0, index=index)
        )
        cell = LivingCell(base.checkpoint, code, chosen, rejected, variation)
        if (noise == 0.0 and bend == 0.0) or _passes(cell):
            break
        rejected += 1
    learned = spread > 0
    shift = (code - base.code)[learned] / spread[learned]
    distance = float(np.sqrt(np.mean(shift**2))) if len(shift) else 0.0
    return cell, Strength(noise=noise, code_distance=distance, rejected=rejected, warp=bend)


def _passes(cell: LivingCell) -> bool:
    """Whether the check accepts the code, and the cell as the warp bends it, over the whole of its life."""
    checkpoint, warp = cell.checkpoint, cell.variation.warp
    topology = checkpoint.card.topology
    if not is_plausible(*bodies_over_time(checkpoint, cell.latent), topology):
        return False
    if warp is None:
        return True
    whole = replace(cell, variation=replace(cell.variation, speed=1.0, begin=TAU[0]))
    bound = checkpoint.card.lipschitz * (1.0 + warp.strength)
    return is_plausible(*count_bodies(lambda time: whole.shape(time, threads=1), lipschitz=bound), topology)


def _between(bounds: list[float], rng: np.random.Generator) -> float:
    low, high = bounds
    return float(rng.uniform(low, high))


def _source(spec: AugmentationSpec, checkpoint: Checkpoint) -> _Base:
    """Return a cell that has a code."""

    def of(code: NDArray[np.float64], rotation: list[float]) -> _Base:
        return _Base(checkpoint=checkpoint, code=code, rotation=rotation, spread=_spread(checkpoint))

    upright = [1.0, 0.0, 0.0, 0.0]
    match spec.source:
        case LearnedCell(index=index):
            return of(checkpoint.prior.centres[index].astype(np.float64), upright)
        case ExplicitCell(values=values, rotation=rotation):
            if rotation is None:
                return of(np.array(values), upright)
            turned = spec.written.model_copy(update={"rotation": rotation})
            return of(np.array(values), draw_rotation(turned, np.random.default_rng(0)))
        case _:
            raise SpecError("the cell of the job is not in the spec; the service puts it there", pointer="/source")
