"""The upload that the examples of the API documentation name, made from the shipped model ``celegans``.

``python tests/example_upload.py`` (or ``make example-upload``) writes it; run it after that model has changed.
:mod:`test_examples` compares. The same weights give the same samples and, with the pinned packages, the same bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
FILE = ROOT / "app" / "services" / "example-cells.tif"
MODEL = "celegans"
CODES = (0, 2, 4, 7)  # well inside the domain, also when moved to its middle, and daughters do not touch
FRAMES, SIDE = 8, 32  # SIDE: samples a cell, along each axis


def learned_cells() -> NDArray[np.uint8]:
    """Return learned cells of the model side by side, (t, z, y, x), each with one label for life."""
    from model.card import SHIPPED_MODELS
    from model.domain import Grid, frame_times
    from model.living_cell import LivingCell
    from model.network.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(SHIPPED_MODELS / MODEL)
    volume = np.zeros((FRAMES, SIDE, 2 * SIDE, 2 * SIDE), np.uint8)
    for number, code in enumerate(CODES):
        cell = LivingCell(checkpoint, checkpoint.latent_codes[code], [1.0, 0.0, 0.0, 0.0])
        x, y = number % 2 * SIDE, number // 2 * SIDE
        for t, frame in enumerate(cell.frames(frame_times(FRAMES), Grid((SIDE, SIDE, SIDE)))):
            inside = frame.labelled.labels.transpose(2, 1, 0) > 0
            volume[t, :, y : y + SIDE, x : x + SIDE][inside] = number + 1
    return volume


def scale() -> tuple[float, float]:
    """Return the side of a voxel in µm and the seconds from frame to frame, by the model's card."""
    from model.card import SHIPPED_MODELS, load_card

    card = load_card(SHIPPED_MODELS / MODEL)
    return 2.0 * card.micrometres / (SIDE - 1), 60.0 * card.minutes / (FRAMES - 1)


def write(path: Path) -> None:
    """Write the cells as ImageJ does, one compressed plane a page, with their scale."""
    import tifffile

    voxel, seconds = scale()
    tifffile.imwrite(
        path,
        learned_cells(),
        imagej=True,
        compression="zlib",
        resolution=(1.0 / voxel, 1.0 / voxel),
        metadata={"axes": "TZYX", "spacing": voxel, "unit": "um", "finterval": seconds, "tunit": "s"},
    )


def main() -> None:
    """Write the file that the service ships."""
    sys.path.insert(0, str(ROOT))
    write(FILE)


if __name__ == "__main__":
    main()
