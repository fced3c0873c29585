"""The commands render and fit-density, on the tiny model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.card import SHIPPED_MODELS
from model.cli.new_cells import refit, render
from model.errors import ExportError, SpecError
from model.network.checkpoint import load_checkpoint


def test_a_sheet_shows_every_cell(tiny_models: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    for _ in range(2):
        render("tiny", sheet, models=[tiny_models], cells=5, columns=3, seed=1, grid=24, size=80)
    with Image.open(sheet) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert pixels.shape == (2 * 84 - 4, 3 * 84 - 4, 3)
    tiles = [pixels[84 * (k // 3) : 84 * (k // 3) + 80, 84 * (k % 3) : 84 * (k % 3) + 80] for k in range(6)]
    assert all(np.ptp(tile) > 60 for tile in tiles[:5])
    assert np.ptp(tiles[5]) < 30, "no sixth cell"
    assert not np.array_equal(tiles[0], tiles[4])


def test_a_model_is_written_again_with_another_density(tiny_models: Path, tmp_path: Path) -> None:
    refit(tiny_models / "tiny", tmp_path / "tiny-2", parts=None, near=1.0, noise=0.05, mirrors=False)
    old, new = load_checkpoint(tiny_models / "tiny"), load_checkpoint(tmp_path / "tiny-2")
    assert new.card.id == "tiny-2"
    assert np.array_equal(old.latent_codes, new.latent_codes)
    assert new.prior.density is None, "three codes are too few to choose"
    with pytest.raises(ExportError, match="exists"):
        refit(tiny_models / "tiny", tmp_path / "tiny-2", parts=None, near=1.0, noise=0.05, mirrors=False)


def test_a_model_is_written_again_so_that_new_cells_are_composed(tiny_models: Path, tmp_path: Path) -> None:
    refit(tiny_models / "tiny", tmp_path / "tiny-3", parts=3, near=0.9, noise=0.2, mirrors=True)
    old, new = load_checkpoint(tiny_models / "tiny"), load_checkpoint(tmp_path / "tiny-3")
    assert new.prior.density is not None
    assert (new.prior.density.kind, new.prior.density.parts, new.prior.density.near) == ("composed", 3, 0.9)
    assert new.prior.density.mirrors
    assert new.prior.bandwidth == pytest.approx(0.2)
    assert len(new.prior.draw(np.random.default_rng(0))) == 3 * (4 + 6)
    assert new.card.lipschitz == old.card.lipschitz
    for folder in (SHIPPED_MODELS / "celegans", tiny_models / "tiny"):
        with pytest.raises(SpecError, match="cannot be composed"):
            refit(folder, tmp_path / "none", parts=4, near=1.0, noise=0.05, mirrors=False)
