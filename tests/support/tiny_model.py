"""A real, trained, very small model: breathing ellipsoids, learned in a few seconds from masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile

from model.learning.dataset import build_dataset
from model.learning.recipe import HeldOut, Optimisation, TrainConfig
from model.learning.sources import MaskSource
from model.learning.train import train
from model.network.autodecoder import NetworkConfig
from model.network.checkpoint import Checkpoint, save_checkpoint
from model.network.latent import fit_prior
from model.network.lipschitz import steepest_slope

SIDE, FRAMES, SEQUENCES = 24, 4, 3


def write_masks(folder: Path) -> Path:
    """Write sequences of ellipsoids whose axes breathe, each in its own way."""
    folder.mkdir(parents=True, exist_ok=True)
    axis = np.linspace(-1.0, 1.0, SIDE)
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    for sequence in range(SEQUENCES):
        radii = 0.35 + 0.1 * np.roll(np.array([0.0, 1.0, 2.0]), sequence)
        masks = [
            (x / radii[0]) ** 2 + (y / radii[1]) ** 2 + (z / radii[2]) ** 2 < (1.0 + 0.08 * frame) ** 2
            for frame in range(FRAMES)
        ]
        tifffile.imwrite(folder / f"cell_{sequence}.tif", np.array(masks, dtype=np.uint8) * 255, compression="zlib")
    return folder


def recipe(masks: Path, *, steps: int = 300) -> TrainConfig:
    return TrainConfig(
        id="tiny",
        title="Breathing ellipsoids",
        description="For tests.",
        cell_type="tiny",
        seed=3,
        threads=1,
        data=MaskSource(kind="masks", folder=masks, micrometres=10.0, minutes=6.0, points_per_frame=4096),
        held_out=HeldOut(every=0),
        network=NetworkConfig(latent_size=4, width=32, depth=3, conditioning_width=16),
        optimisation=Optimisation(steps=steps, frames_per_step=4, points_per_frame=256, learning_rate=3e-3, warm_up=20),
    )


def build_tiny_model(folder: Path) -> Checkpoint:
    """Train it and save it as ``folder/tiny``."""
    config = recipe(write_masks(folder / "masks"))
    dataset = build_dataset(config.data, folder / "dataset", workers=1)
    trained = train(config, dataset, folder / "state")
    return save_checkpoint(
        folder / "models" / "tiny",
        decoder=trained.decoder,
        prior=fit_prior(trained.latent_codes),
        card={
            "id": "tiny",
            "title": config.title,
            "description": config.description,
            "cell_type": config.cell_type,
            "licence": config.licence,
            "created": "2026-01-01",
            "micrometres": dataset.micrometres,
            "minutes": dataset.minutes,
            "lipschitz": 1.1 * steepest_slope(trained.decoder, trained.latent_codes),
            "topology": "single",
            "training": {
                "data": "ellipsoids",
                "sequences": SEQUENCES,
                "frames": FRAMES,
                "held_out_frames": "none",
                "steps": trained.steps,
                "points": trained.points,
                "minutes": trained.minutes,
                "device": "cpu",
                "seed": config.seed,
                "recipe": "tests/support/tiny_model.py",
            },
        },
    )
