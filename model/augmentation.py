"""Augmentation: variations of one cell, each with its strength.

A variation has noise in its code, a rotation, perhaps a mirror image, a size and a speed. Its code passes the check
that drawn codes pass (:mod:`model.network.plausibility`); the noise is halved until it does, in the end to nothing.

Promises: the same spec and checkpoint give the same bytes; rotation, mirror and size change no shape, only how it
lies and how large it is, and distances stay distances.
Does not promise: that a source which is itself implausible gives plausible variations.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.augmentation_spec import AugmentationSpec, ExplicitCell, LearnedCell
from model.errors import SpecError
from model.living_cell import LivingCell, Variation
from model.network.checkpoint import Checkpoint
from model.network.latent import draw_rotation
from model.network.plausibility import bodies_over_time, is_plausible
from model.output.manifest import amend_manifest
from model.synthesis import Device, Progress, synthesize

AUGMENTATION_FILE = "augmentation.json"
ATTEMPTS = 6  # codes judged, each with half the noise of the one before


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
    """

    noise: float
    code_distance: float
    rejected: int


def augment(
    spec: AugmentationSpec,
    checkpoint: Checkpoint,
    folder: Path,
    *,
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
        Gets a folder for each variation, ``augmentation.json`` with the strength of each, and ``manifest.json``.

    Raises
    ------
    SpecError, SurfaceError, ExportError
        As for :func:`model.synthesis.synthesize`.
    """
    rows: list[dict[str, Any]] = []

    def vary(index: int) -> LivingCell:
        cell, strength = draw_variation(spec, checkpoint, index)
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
                "begins_at": cell.variation.begin,
            }
        )
        return cell

    synthesize(spec.written, checkpoint, folder, on_progress=on_progress, device=device, draw=vary)
    text = json.dumps({"source": spec.source.model_dump(mode="json"), "cells": rows}, indent=1)
    (folder / AUGMENTATION_FILE).write_text(text + "\n", encoding="utf-8")
    amend_manifest(folder, spec=spec.model_dump(mode="json"), beside=[folder / AUGMENTATION_FILE])


def draw_variation(spec: AugmentationSpec, checkpoint: Checkpoint, index: int) -> tuple[LivingCell, Strength]:
    """Draw one variation of the source, numbered from 0."""
    rng = np.random.default_rng([spec.seed or 0, index])
    base, rotation = _source(spec, checkpoint)
    spread = checkpoint.prior.centres.astype(np.float64).std(axis=0)
    size, speed = _between(spec.size, rng), _between(spec.speed, rng)
    begin = float(-1.0 + 2.0 * (1.0 - speed) * rng.random())
    mirrored = bool(rng.random() < 0.5) and spec.mirror
    turned = draw_rotation(spec.written.model_copy(update={"rotation": "random"}), rng)
    noise, rejected = spec.noise, 0
    while True:
        noise = noise if rejected < ATTEMPTS else 0.0
        code = np.asarray(base + noise * spread * rng.standard_normal(len(base)), dtype=np.float32)
        if noise == 0.0 or is_plausible(*bodies_over_time(checkpoint, code), checkpoint.card.topology):
            break
        noise, rejected = 0.5 * noise, rejected + 1
    shift = (code - base)[spread > 0] / spread[spread > 0]
    strength = Strength(
        noise=noise, code_distance=float(np.sqrt(np.mean(shift**2))) if len(shift) else 0.0, rejected=rejected
    )
    variation = Variation(mirrored=mirrored, size=size, speed=speed, begin=begin)
    chosen = turned if spec.rotation == "random" else rotation
    return LivingCell(checkpoint, code, chosen, rejected, variation), strength


def _between(bounds: list[float], rng: np.random.Generator) -> float:
    low, high = bounds
    return float(rng.uniform(low, high))


def _source(spec: AugmentationSpec, checkpoint: Checkpoint) -> tuple[NDArray[np.float64], list[float]]:
    """Code (c,) and rotation of the cell that is varied."""
    upright = [1.0, 0.0, 0.0, 0.0]
    match spec.source:
        case LearnedCell(index=index):
            return checkpoint.prior.centres[index].astype(np.float64), upright
        case ExplicitCell(values=values, rotation=rotation):
            if rotation is None:
                return np.array(values), upright
            turned = spec.written.model_copy(update={"rotation": rotation})
            return np.array(values), draw_rotation(turned, np.random.default_rng(0))
        case _:
            raise SpecError("the cell of the job is not in the spec; the service puts it there", pointer="/source")
