"""Promises of model.card that no other test file shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.card import FINEST, SHIPPED_MODELS, load_card
from model.spec import FINEST_GRID


@pytest.mark.parametrize(("stated", "read"), [(512, FINEST), (256, 256), (1024, 1024)])
def test_a_card_of_before_fine_grids_has_no_limit_of_its_own(stated: int, read: int, tmp_path: Path) -> None:
    shipped = load_card(SHIPPED_MODELS / "celegans")
    assert shipped.grid_max == FINEST == FINEST_GRID
    shipped.model_copy(update={"grid_max": stated}).write(tmp_path)
    assert load_card(tmp_path).grid_max == read
