"""A training from files to a model: killed anywhere it goes on, and its weights are those of an undisturbed one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tifffile
import torch
from tiny_model import write_masks

from model.card import load_card
from model.errors import DatasetError, SpecError, TooLargeError
from model.learning.train import adopt_state
from model.network.checkpoint import load_checkpoint
from model.output.verify import verify_result
from model.training import TrainingProgress, train_model
from model.training_spec import NEW_CELLS_MAX, TrainingLimits, TrainingSpec, new_cells_of

STEPS = 60
SMALL = {
    "name": "tiny", "uploads": ["cell_0.tif", "cell_1.tif"], "voxel": [0.5, 0.5, 0.5], "interval": 2.0, "seed": 3,
    "points": 1024, "left_out_every": 3, "latent_size": 4, "width": 32, "depth": 2, "steps": STEPS,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_masks(tmp_path_factory.mktemp("cells"))


def spec_of(**members: object) -> TrainingSpec:
    return TrainingSpec.model_validate(SMALL | members).completed().named_for("ada")


class KilledError(Exception):
    pass


def kill_at(stage: str, frame: int) -> Callable[[TrainingProgress], None]:
    def look(progress: TrainingProgress) -> None:
        if progress.stage == stage and progress.frame >= frame:
            raise KilledError

    return look


class Workplace:
    def __init__(self, cells: Path, folder: Path) -> None:
        self.cells, self.home, self.folder = cells, folder / "home", folder / "result"
        self.opened = 0
        self.attempts = 0

    @contextmanager
    def sources(self) -> Iterator[Path]:
        self.opened += 1
        yield self.cells

    def attempt(self, spec: TrainingSpec, **more: object) -> bytes:
        self.attempts += 1
        train_model(spec, self.sources, self.home, self.folder, attempt=str(self.attempts), **more)  # type: ignore[arg-type]
        return (self.folder / "trained" / "weights.safetensors").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    place = Workplace(cells, tmp_path_factory.mktemp("undisturbed"))
    place.attempt(spec_of())
    return place


def test_the_result_is_a_model_with_its_curve_figures_and_report(undisturbed: Workplace) -> None:
    assert list(verify_result(undisturbed.folder)) == []
    spec = spec_of()
    card = load_card(undisturbed.folder / "trained")
    assert (card.id, card.latent_codes, card.latent_size) == (spec.model, 3, 4)
    assert (card.minutes, card.training.steps, card.training.held_out_frames) == (6.0, STEPS, "2")
    assert card.quality.keys() >= {"dice_training_frames", "dice_left_out_frames"}
    assert 0 < card.quality["new_cells"] <= 4, "drawn after so short a training; those without a membrane do not count"
    rows = (undisturbed.folder / "curve.csv").read_text().splitlines()
    assert rows[0] == "step,loss,dice_left_out_frames"
    assert len(rows) == 1 + STEPS
    last = rows[-1].split(",")
    assert (int(last[0]), 0 < float(last[1]) < 1, 0 <= float(last[2]) <= 1) == (STEPS, True, True)
    report = json.loads((undisturbed.folder / "validation.json").read_text())
    assert (report["errors"], report["trained_on"]) == (0, ["cell_0", "cell_1", "cell_2"])
    manifest = json.loads((undisturbed.folder / "manifest.json").read_text())
    assert manifest["model"] == {"id": spec.model, "sha256": card.sha256}
    assert manifest["spec"]["model"] == spec.model
    assert "warnings" not in manifest


def test_a_training_killed_in_every_stage_gives_the_weights_and_the_curve_of_an_undisturbed_one(
    undisturbed: Workplace, cells: Path, tmp_path: Path
) -> None:
    place = Workplace(cells, tmp_path)
    for stage, frame in (("reading", 3), ("importing", 5), ("training", 1), ("figures", 0)):
        with pytest.raises(KilledError):
            place.attempt(spec_of(), on_progress=kill_at(stage, frame))
    done: list[TrainingProgress] = []
    weights = place.attempt(spec_of(), on_progress=done.append)
    assert {progress.stage for progress in done} == {"figures"}  # nothing was read, imported or learned again
    assert place.opened == 3  # the files were not needed once they were imported
    assert weights == (undisturbed.folder / "trained" / "weights.safetensors").read_bytes()
    for name in ("curve.csv", "recipe.json", "validation.json", "trained/figures.json", "trained/figures.png"):
        assert (place.folder / name).read_bytes() == (undisturbed.folder / name).read_bytes()


def test_what_was_imported_before_a_kill_is_kept(cells: Path, tmp_path: Path) -> None:
    place = Workplace(cells, tmp_path)
    with pytest.raises(KilledError):
        place.attempt(spec_of(), on_progress=kill_at("importing", 5))
    seen: list[TrainingProgress] = []

    def look(progress: TrainingProgress) -> None:
        seen.append(progress)
        kill_at("training", 1)(progress)  # what comes after is not of interest here

    with pytest.raises(KilledError):
        place.attempt(spec_of(), on_progress=look)
    assert max(one.frames for one in seen if one.stage == "importing") == 3 * 4 - 5


def test_a_training_that_is_stopped_keeps_the_best_model_so_far(cells: Path, tmp_path: Path) -> None:
    place = Workplace(cells, tmp_path)
    place.attempt(spec_of(steps=1_000_000, width=64), should_stop=lambda: True)
    card = load_checkpoint(place.folder / "trained").card
    assert 0 < card.training.steps < 1_000_000
    (warning,) = json.loads((place.folder / "manifest.json").read_text())["warnings"]
    assert warning["code"] == "stopped_early"


def test_minutes_end_a_training_over_all_its_attempts(cells: Path, tmp_path: Path) -> None:
    place, spec = Workplace(cells, tmp_path), spec_of(steps=1_000_000, minutes=0.03)
    with pytest.raises(KilledError):
        place.attempt(spec, on_progress=kill_at("training", 1))
    place.attempt(spec)
    assert load_card(place.folder / "trained").training.steps < 1_000_000


def test_data_that_cannot_be_trained_on_fail_with_all_findings(cells: Path, tmp_path: Path) -> None:
    place = Workplace(cells, tmp_path)
    with pytest.raises(DatasetError) as failure:
        place.attempt(spec_of(voxel=None))
    lines = str(failure.value).splitlines()
    assert lines[0] == "none of the 3 sequences can be trained on as it is:"
    for name in ("cell_0", "cell_1", "cell_2"):
        assert any(line.startswith(f"{name}: error no_spacing: voxel size unknown") for line in lines)


def test_sequences_with_errors_and_beyond_the_limit_are_left_out_and_named(cells: Path, tmp_path: Path) -> None:
    short = tmp_path / "cells"
    write_masks(short)
    tifffile.imwrite(short / "cell_0.tif", tifffile.imread(short / "cell_0.tif")[:2])
    place = Workplace(short, tmp_path)
    place.attempt(spec_of(steps=10, sequences=1, interval=None, left_out_every=0))
    report = json.loads((place.folder / "validation.json").read_text())
    assert (report["trained_on"], report["left_out"]) == (["cell_1"], ["cell_0", "cell_2"])
    warnings = json.loads((place.folder / "manifest.json").read_text())["warnings"]
    assert {one["code"] for one in warnings} == {"sequences_left_out", "interval_unknown"}
    assert load_card(place.folder / "trained").latent_codes == 1


def test_too_many_training_points_are_refused(cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.training.DATASET_BYTES_MAX", 100_000)
    with pytest.raises(DatasetError, match="lower points or sequences"):
        Workplace(cells, tmp_path).attempt(spec_of())


def test_the_furthest_whole_state_is_adopted(undisturbed: Workplace, tmp_path: Path) -> None:
    (state,) = (undisturbed.home / "attempts").iterdir()
    broken, missing = tmp_path / "broken", tmp_path / "missing"
    broken.mkdir()
    (broken / "state.json").write_text("{")
    assert adopt_state([broken, missing], tmp_path / "none") is None
    assert adopt_state([broken, state, missing], tmp_path / "mine") == STEPS
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {path.name for path in state.iterdir()}


def test_the_name_of_the_model_follows_from_the_spec_and_its_owner() -> None:
    bare = TrainingSpec.model_validate(SMALL)
    assert bare.named_for("ada") == spec_of()
    assert bare.named_for("bob").model != bare.named_for("ada").model
    assert spec_of(steps=70).model != spec_of().model
    assert spec_of().named_for("ada") == spec_of()
    with pytest.raises(SpecError, match="leave model out"):
        spec_of().named_for("bob")


def test_new_cells_are_drawn_in_proportion_to_the_training() -> None:
    counts = [new_cells_of(steps=steps, width=64, depth=4) for steps in (1, 600, 1500, 3000, 24_000)]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (4, NEW_CELLS_MAX)
    assert 4 < counts[2] < counts[3] <= NEW_CELLS_MAX
    longer, shorter = (spec_of(steps=steps, width=64, depth=4).cost_of(12).seconds for steps in (1500, 10))
    assert longer > shorter


def test_limits_are_filled_in_and_hold() -> None:
    limits = TrainingLimits(steps=100, sequences=5, minutes=30.0)
    spec = spec_of().within(limits)
    assert (spec.sequences, spec.minutes) == (5, 30.0)
    assert spec_of(minutes=1.0).within(limits).minutes == 1.0
    for member in ({"steps": 101}, {"sequences": 6}, {"minutes": 31.0}):
        with pytest.raises(TooLargeError, match=next(iter(member))):
            spec_of(**member).within(limits)
    assert spec_of(steps=10).cost().seconds < spec_of(steps=10_000).cost().seconds
    assert spec_of(minutes=0.001).cost_of(10).seconds < spec_of().cost_of(10).seconds
