"""Novelty: copies are found among all training cells, and unseen cells say what is near."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_model import recipe

from model.card import load_card
from model.cli.evaluate import evaluate
from model.evaluation.comparison import Sides, novelty
from model.evaluation.novelty import (
    SAMPLED,
    Outline,
    find_outline,
    find_outlines,
    nearest_training,
    novelty_figures,
    novelty_of_model,
    outline_of,
    overlaps,
    warnings_for,
    with_novelty,
)
from model.evaluation.reports.figures import PICTURE_SIDE, picture_pairs
from model.evaluation.sequence_measures import SequenceMeasures, measure
from model.evaluation.sequence_sources import GeneratedSequences, PhantomSequences, RealSequences
from model.learning.sources import MaskSource
from model.network.checkpoint import load_checkpoint


def strip(name: str, first: int, last: int, frames: int = 3) -> Outline:
    """A cell that fills the samples from one number to another of a line of 80, at all times."""
    row = np.zeros(80, dtype=np.bool_)
    row[first:last] = True
    return Outline(name, np.packbits(np.tile(row, (frames, 1)), axis=1))


TRAINING = [strip("a", 0, 20), strip("b", 30, 50), strip("c", 60, 80)]


def test_overlaps_are_dice_coefficients_over_all_moments() -> None:
    table = overlaps([strip("new", 10, 30), TRAINING[1]], TRAINING)
    assert table.tolist() == [[0.5, 0.0, 0.0], [0.0, 1.0, 0.0]]
    shrinking = Outline("shrinking", np.stack([TRAINING[0].samples[0], strip("", 0, 10).samples[0]]))
    assert overlaps([shrinking], TRAINING[:1])[0, 0] == pytest.approx(2 * 30 / (30 + 40)), "its two moments"


def test_the_figures_are_those_of_the_nearest_cells() -> None:
    held_out = [strip("u", 15, 35), strip("v", 45, 65)]  # nearest training cells: Dice 0.25 both
    made = [strip("copy", 30, 50), strip("near", 2, 22), strip("new", 17, 37), strip("off", 20, 30)]
    nearest = nearest_training(made, TRAINING)
    assert nearest.indices.tolist()[:3] == [1, 0, 1]
    assert nearest.dice.tolist() == pytest.approx([1.0, 0.9, 0.35, 0.0])
    found = novelty_figures(made, TRAINING, held_out)
    assert found == pytest.approx(
        {
            "memorisation_rate": 0.75,
            "dice_with_nearest_training": 0.625,
            "dice_with_nearest_training_largest": 1.0,
            "dice_with_nearest_training_of_held_out": 0.25,
            "dice_above_held_out": 0.375,
            "training_searched": 3.0,
            "new_cells": 4.0,
            "dice_with_nearest_held_out": np.median([0.25, 0.35, 0.9, 2 * 10 / 30]),
            "dice_with_as_many_training": np.median([0.0, 0.9, 0.15, 0.0]),
        },
        abs=1e-4,
    )


def test_a_copy_of_any_training_cell_counts_where_there_are_no_held_out_cells() -> None:
    """Also of those that stand for held-out cells in the descriptors."""
    found = novelty_figures([strip("copy", 60, 80), strip("new", 20, 30)], TRAINING, None)
    assert found["memorisation_rate"] == 0.5
    assert found["dice_with_nearest_training_of_held_out"] == 0.0
    assert "dice_with_nearest_held_out" not in found


def test_an_outline_of_a_phantom_is_that_of_its_measured_frames() -> None:
    source = PhantomSequences("celegans", 3, 2)
    quick, measured = find_outline(source, 1), outline_of(measure(source, 1))
    assert quick.name == measured.name
    assert np.array_equal(quick.samples, measured.samples)
    assert len(quick.samples[0]) == -(-(64**3 // SAMPLED + 1) // 8)


@pytest.fixture(scope="module")
def tiny(tiny_training: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, into whose card a test writes."""
    return Path(shutil.copytree(tiny_training, tmp_path_factory.mktemp("tiny") / "copy"))


@pytest.fixture(scope="module")
def masks(tiny: Path) -> RealSequences:
    source = MaskSource(kind="masks", folder=tiny / "masks", micrometres=10.0, minutes=6.0)
    return RealSequences.of(source, has_protrusions=False)


def test_the_nearest_is_looked_for_among_all_training_cells(masks: RealSequences) -> None:
    measured: list[SequenceMeasures] = [measure(masks, index) for index in range(3)]
    sides = Sides([measured[2]], [measured[1]], [measured[0]], [measured[0]])
    assert novelty(sides)["dice_with_nearest_training"] < 1.0
    everywhere = Sides(*[sides.generated, sides.held_out, sides.training, sides.baseline], find_outlines(masks))
    assert novelty(everywhere)["dice_with_nearest_training"] == 1.0


def test_new_cells_of_few_sequences_are_near_copies(tiny: Path, masks: RealSequences) -> None:
    found = novelty_of_model(load_checkpoint(tiny / "models" / "tiny"), masks, cells=4)
    assert found["memorisation_rate"] == 1.0
    assert found["dice_with_nearest_training"] > found["dice_with_nearest_training_of_held_out"]
    assert (found["training_searched"], found["new_cells"]) == (3, 4)


def test_a_pair_is_pictured_from_one_side(tiny: Path, masks: RealSequences) -> None:
    same = picture_pairs(masks, masks, [(1, 1, 1.0)], moments=2)
    assert same.shape == (PICTURE_SIDE, 4 * (PICTURE_SIDE + 4) - 4, 3)
    left, right = same[40:-40, :PICTURE_SIDE], same[40:-40, 2 * (PICTURE_SIDE + 4) : -PICTURE_SIDE - 4]
    assert np.array_equal(left, right), "a cell beside itself, below the captions"
    new = picture_pairs(GeneratedSequences(tiny / "models" / "tiny", 2), masks, [(0, 2, 0.9), (1, 0, 0.8)], moments=3)
    assert new.shape == (2 * (PICTURE_SIDE + 4) - 4, 6 * (PICTURE_SIDE + 4) - 4, 3)


def test_an_evaluation_writes_the_novelty_into_the_card_where_it_is_asked_to(tiny: Path, tmp_path: Path) -> None:
    document = recipe(tiny / "masks").model_dump(mode="json", exclude_none=True)
    config = tmp_path / "tiny.toml"
    config.write_text(_toml(document), encoding="utf-8")
    evaluate(
        config=config, models=tiny / "models", data=None, grid=24, every=30, sequences=1, samples=0, out=None,
        keep=True, report=tmp_path / "report", held_out=None, cells=2, fits=0, quick=True, workers=1,
    )  # fmt: skip
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    quality = load_card(tiny / "models" / "tiny").quality
    for name in ("memorisation_rate", "dice_with_nearest_training", "dice_with_nearest_training_of_held_out"):
        assert quality[name] == summary["models"]["tiny"]["novelty"][name]
    assert (tmp_path / "report" / "tiny-nearest.png").is_file()


def _toml(members: dict[str, object], name: str = "") -> str:
    plain = {key: value for key, value in members.items() if not isinstance(value, dict)}
    lines = [f"[{name}]"] if name else []
    lines += [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
    tables = [_toml(value, f"{name}.{key}".strip(".")) for key, value in members.items() if isinstance(value, dict)]
    return "\n".join([*lines, *tables]) + "\n"


def test_a_card_warns_of_few_sequences_and_of_copies(tiny: Path) -> None:
    card = load_card(tiny / "models" / "tiny")
    assert [text.split(",")[0] for text in warnings_for(card, {})] == ["Learned from 3 sequences"]
    assert len(warnings_for(card, {"memorisation_rate": 0.51, "new_cells": 100.0})) == 2
    assert len(warnings_for(card, {"memorisation_rate": 0.3, "new_cells": 99.0})) == 2
    measured = warnings_for(card, {"memorisation_rate": 0.3, "new_cells": 100.0})
    assert [text[:3] for text in measured] == ["30%"], "new, though of few"
    many = card.model_copy(update={"training": card.training.model_copy(update={"sequences": 2000})})
    assert warnings_for(many, {"memorisation_rate": 0.25}) == []
    stated = with_novelty(many, {"memorisation_rate": 0.26, "ratio": 1.0})
    assert stated.warnings == [
        "26% of new cells are nearer to a training cell than 95 % of unseen cells are; at most 25% should be."
    ]
    assert stated.quality["memorisation_rate"] == 0.26
    assert "ratio" not in stated.quality
    counted = with_novelty(many, {"memorisation_rate": 0.5, "new_cells": 4.0})
    assert counted.warnings[0].startswith("50% of 4 new cells are nearer")
    assert counted.quality["new_cells"] == 4.0
    celegans = many.model_copy(update={"cell_type": "celegans"})
    assert len(warnings_for(celegans, {"memorisation_rate": 0.11})) == 1
