"""What a process of its own does for the comparison: here, because a spawned process cannot import ``__main__``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from benchmarks.arms.measures import Effort, Seen, fits, new_cells, reconstruction
from benchmarks.arms.methods import Arm
from benchmarks.arms.sequences import Sequences
from model.network.checkpoint import load_checkpoint


def one_thread() -> None:
    """Keep a process to one core."""
    torch.set_num_threads(1)


def evaluate_arm(job: tuple[Arm, Sequences, Path, Effort, dict[str, list[Seen]]]) -> dict[str, Any]:
    """Measure one trained arm: itself, its cells, the folder of its model, how hard to look, and what is known."""
    arm, sequences, folder, effort, known = job
    checkpoint = load_checkpoint(folder)
    facts = checkpoint.card.training
    return {
        "title": arm.title,
        "weights": checkpoint.card.parameters,
        "training": {
            "steps": facts.steps,
            "points": facts.points,
            "minutes": facts.minutes,
            "ms_a_step": round(60e3 * facts.minutes / max(facts.steps, 1), 2),
            "lipschitz": checkpoint.card.lipschitz,
            **checkpoint.card.quality,
        },
        "reconstruction": reconstruction(checkpoint, sequences, effort),
        "fits": fits(arm, checkpoint, sequences, effort),
        "new_cells": new_cells(arm, checkpoint, sequences, effort, known),
    }
