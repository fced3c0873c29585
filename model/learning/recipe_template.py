"""The recipe that an import writes beside its data set: ready for training, meant to be edited."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from model.learning.dataset import Dataset
from model.network.autodecoder import NetworkConfig
from model.readers.survey import Surveyed

RECIPE_FILE = "recipe.toml"
FRAMES_TO_SPARE = 10  # sequences of at least so many frames hold out every fifth from training

_TEXT = """\
# Written by python -m model import; train with
#   python -m model train --config {path}
id = {id}
title = {title}
description = {description}
cell_type = {id}
topology = "{topology}"
licence = "not for redistribution"
seed = 1
# copies = 7  # turned and mirrored copies of each sequence, for few cells that lie in any direction
# warps = 3  # smoothly warped copies of each sequence, for few cells: more shapes to learn from

[data]
kind = "imported"
folder = {folder}

[held_out]  # frames kept from training, to measure how well time is interpolated; every = 0 keeps none
every = {every}
offset = 2

[network]
{network}

[optimisation]
steps = {steps}
frames_per_step = 8
points_per_frame = 512
learning_rate = 5e-4
hidden_learning_rate = 5e-4
latent_learning_rate = 1e-3
warm_up = 1000
clip = 0.5
"""


def write_recipe(
    dataset: Dataset, surveyed: list[Surveyed], *, steps: int = 24_000, network: NetworkConfig | None = None
) -> Path:
    """Write ``recipe.toml`` into the folder of an imported data set.

    Parameters
    ----------
    dataset
        What was imported.
    surveyed
        What was found; whether the cells divide decides the topology.
    steps
        Of training: 24,000 take about 40 minutes on one shared core.
    network
        That of a trained model from which training is to start; chosen by the number of sequences when None.
    """
    usable = [one for one in surveyed if one.is_usable]
    dividing = sum(one.sequence.divides or one.parts_in_the_end == 2 for one in usable)
    sizes = network.model_dump() if network else {"latent_size": 64 if len(dataset.names) > 8 else 16}
    path = dataset.folder / RECIPE_FILE
    name = identifier(dataset.folder.name)
    frames = float(np.median([len(block) for block in dataset.samples]))
    text = _TEXT.format(
        path=path.as_posix(),
        id=json.dumps(name),
        title=json.dumps(name.replace("-", " ").replace("_", " ").capitalize()),
        description=json.dumps(f"Learned from {len(dataset.names)} imported sequences."),
        topology="division" if 2 * dividing > len(usable) else "single",
        folder=json.dumps(dataset.folder.absolute().as_posix()),
        every=5 if frames >= FRAMES_TO_SPARE else 0,
        network="\n".join(f"{member} = {json.dumps(value)}" for member, value in sizes.items()),
        steps=steps,
    )
    path.write_text(text, encoding="utf-8")
    return path


def identifier(text: str) -> str:
    """Make a model's id of a folder's name."""
    found = re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_")
    return found[:64] or "my-cells"
