"""Output of ``python -m model fit``: the code, the scores, and the cell at any resolution."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from model.card import ModelCard
from model.domain import Grid
from model.fitting.fit import Fit, FitPlan, FitScore, TargetFrame, fit_cell, score_fit
from model.network.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from model.spec import ExplicitLatent, GenerationSpec
from model.synthesis import synthesize

__all__ = ["FIT_FILE", "SPEC_FILE", "fit_model", "fit_to_folder", "score_rows", "write_document"]

FIT_FILE, SPEC_FILE = "fit.json", "spec.json"


def fit_to_folder(
    checkpoint: Checkpoint,
    target: list[TargetFrame],
    folder: Path,
    *,
    name: str,
    plan: FitPlan,
    spec: dict[str, Any],
    score_grid: int,
    on_step: Callable[[int, int, float], None],
) -> dict[str, Any]:
    """Fit, measure, and write everything into a folder.

    Parameters
    ----------
    checkpoint, target, plan
        As for :func:`model.fitting.fit.fit_cell`.
    folder
        Gets ``fit.json``, ``spec.json``, ``cells/`` and, if the network was adapted, ``models/<name>``.
    name
        Id of the adapted model.
    spec
        Members of the spec by which the cell is made again: frames, grid, formats.
    score_grid
        Samples along each side of Ω, to measure on.

    Returns
    -------
    dict
        What ``fit.json`` holds.
    """
    document, owner, recipe = fit_model(
        checkpoint, target, folder / "models" / name, plan=plan, spec=spec, score_grid=score_grid, on_step=on_step
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SPEC_FILE).write_text(recipe.model_dump_json(indent=1) + "\n", encoding="utf-8")
    write_document(document, folder / FIT_FILE)
    synthesize(recipe, owner, folder / "cells")
    return document


def fit_model(
    checkpoint: Checkpoint,
    target: list[TargetFrame],
    adapted: Path,
    *,
    plan: FitPlan,
    spec: dict[str, Any],
    score_grid: int,
    on_step: Callable[[int, int, float], None],
) -> tuple[dict[str, Any], Checkpoint, GenerationSpec]:
    """Fit and measure; write the adapted network, if the plan asks for one, into the folder ``adapted``.

    The other parameters are those of :func:`fit_to_folder`.

    Returns
    -------
    document
        What ``fit.json`` holds.
    owner
        The model that the code belongs to.
    recipe
        The spec that makes the cell with it.
    """
    fit = fit_cell(checkpoint, target, plan=plan, on_step=on_step)
    grid = Grid((score_grid, score_grid, score_grid))
    code_only = fit.before or fit
    unit = checkpoint.card.micrometres
    document: dict[str, Any] = {
        "model": checkpoint.card.id,
        "model_sha256": checkpoint.card.sha256,
        "latent": {"kind": "explicit", "values": [float(value) for value in code_only.latent]},
        "rotation": code_only.rotation,
        "shift_um": [float(value) * unit for value in code_only.shift],
        "score": score_rows(score_fit(code_only, target, grid=grid), unit),
        "tried_errors": fit.tried,
    }
    owner = checkpoint
    if fit.before is not None:
        owner = _save_adapted(fit, adapted, base=checkpoint.card, frames=len(target), plan=plan)
        document["adapted"] = {
            "model": owner.card.id,
            "model_sha256": owner.card.sha256,
            "latent": {"kind": "learned", "index": 0},
            "score": score_rows(score_fit(fit, target, grid=grid), unit),
        }
    latent = ExplicitLatent(kind="explicit", values=[float(value) for value in fit.latent])
    recipe = GenerationSpec(model=owner.card.id, seed=0, latent=latent, rotation=fit.rotation, **spec).completed()
    return document, owner, recipe


def write_document(document: dict[str, Any], path: Path) -> None:
    """Write what ``fit.json`` holds."""
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def score_rows(scores: list[FitScore], micrometres: float) -> dict[str, Any]:
    """Means over frames, and every frame; distances in µm."""
    rows = [
        {
            "time": score.time,
            "dice": round(score.dice, 4),
            "mean_um": round(score.mean_distance * micrometres, 4),
            "p95_um": round(score.distance_95 * micrometres, 4),
        }
        for score in scores
    ]
    means = {key: round(float(np.mean([row[key] for row in rows])), 4) for key in ("dice", "mean_um", "p95_um")}
    return {**means, "frames": rows}


def _save_adapted(fit: Fit, folder: Path, *, base: ModelCard, frames: int, plan: FitPlan) -> Checkpoint:
    """Save an adapted network as a model of one cell, under the name of its folder."""
    facts = asdict(plan)
    card = base.model_dump(exclude={"sha256", "parameters", "latent_size", "latent_codes", "quality"})
    card |= {
        "id": folder.name,
        "title": f"One cell, fitted with {base.id}",
        "description": f"The model {base.id} adapted to one given cell; its only learned code is that cell.",
        "lipschitz": fit.checkpoint.card.lipschitz,
        "training": {
            "data": f"one given cell; before that: {base.training.data}",
            "sequences": 1,
            "frames": frames,
            "held_out_frames": "none",
            "steps": plan.adapt_steps,
            "points": plan.adapt_steps * plan.frames * plan.points,
            "minutes": base.training.minutes,
            "device": "cpu",
            "seed": plan.seed,
            "recipe": f"python -m model fit --model {base.id}, plan {json.dumps(facts)}",
        },
    }
    save_checkpoint(folder, decoder=fit.checkpoint.decoder, prior=fit.checkpoint.prior, card=card)
    return load_checkpoint(folder)
