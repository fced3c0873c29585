from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_model import recipe, write_masks

from model.domain import Grid, frame_times
from model.engine.sparse import evaluate_dense
from model.errors import SpecError
from model.evaluation.reconstruction import dice, score_reconstruction, summarise
from model.learning.dataset import Dataset, build_dataset
from model.learning.recipe import TrainConfig
from model.learning.sources import mask_frames
from model.learning.train import Trained, TrainingRun, TrainProgress, train
from model.network.checkpoint import Checkpoint
from model.phantoms import CELL_TYPES

RECIPES = Path(__file__).parents[3] / "model" / "recipes"


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_masks(tmp_path_factory.mktemp("masks"))


@pytest.fixture(scope="module")
def dataset(masks: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build_dataset(recipe(masks).data, tmp_path_factory.mktemp("data") / "set", workers=1)


def weights(trained: Trained) -> bytes:
    tensors = [*trained.decoder.state_dict().values(), torch.from_numpy(trained.latent_codes)]
    return b"".join(np.ascontiguousarray(tensor.numpy()).tobytes() for tensor in tensors)


class KilledError(Exception):
    pass


def test_two_runs_are_equal_and_a_killed_run_goes_on_as_if_it_had_not_been(
    masks: Path, dataset: Dataset, tmp_path: Path
) -> None:
    config = recipe(masks, steps=40)
    whole = weights(train(config, dataset, tmp_path / "one"))
    assert weights(train(config, dataset, tmp_path / "two")) == whole

    def kill(_progress: TrainProgress) -> None:
        raise KilledError

    # saved after every step; the first report, a second in or at the end, kills the run
    with pytest.raises(KilledError):
        train(config, dataset, tmp_path / "three", save_every_s=0.0, on_progress=kill)
    state = (tmp_path / "three" / "state.json").read_text()
    assert '"step"' in state
    assert weights(train(config, dataset, tmp_path / "three")) == whole


def test_a_run_stopped_halfway_equals_one_that_was_not(
    masks: Path, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from model.learning import train as module

    config = recipe(masks, steps=30)
    whole = weights(train(config, dataset, tmp_path / "whole"))
    advance, steps = module.TrainingRun.advance, []

    def advance_and_die(self: module.TrainingRun, loss: object) -> float:
        if len(steps) == 17:
            raise KilledError
        steps.append(self.step)
        return advance(self, loss)

    monkeypatch.setattr(module.TrainingRun, "advance", advance_and_die)
    with pytest.raises(KilledError):
        train(config, dataset, tmp_path / "half", save_every_s=0.0)
    monkeypatch.undo()
    assert weights(train(config, dataset, tmp_path / "half")) == whole


def test_a_full_disk_is_an_error_of_the_system_and_keeps_the_last_state_and_the_reason_to_stop(
    masks: Path, dataset: Dataset, tmp_path: Path
) -> None:
    config = recipe(masks, steps=40)
    whole = weights(train(config, dataset, tmp_path / "whole"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(_progress: TrainProgress) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # a file of this process takes no more

    def fill_and_stop(progress: TrainProgress) -> None:
        fill(progress)
        raise KilledError

    for name, on_progress, expected in (("stopped", fill_and_stop, KilledError), ("full", fill, OSError)):
        try:
            with pytest.raises(expected):
                train(config, dataset, tmp_path / name, save_every_s=0.0, on_progress=on_progress)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert list((tmp_path / name).glob("*.partial")) == []
        assert weights(train(config, dataset, tmp_path / name)) == whole


def test_state_of_another_recipe_is_refused(masks: Path, dataset: Dataset, tmp_path: Path) -> None:
    train(recipe(masks, steps=2), dataset, tmp_path)
    with pytest.raises(SpecError, match="another recipe"):
        train(recipe(masks, steps=3), dataset, tmp_path)


def test_a_trained_model_is_gone_on_from(
    tiny_checkpoint: Checkpoint, masks: Path, dataset: Dataset, tmp_path: Path
) -> None:
    """Its weights and codes are the first state; a run that was killed goes on, from the same start only."""
    config = recipe(masks, steps=30)
    fresh = TrainingRun(config, dataset, "cpu")
    run = TrainingRun(config, dataset, "cpu", tiny_checkpoint)
    assert np.array_equal(run.latent_codes.detach().numpy(), tiny_checkpoint.latent_codes)
    first = [float(one.loss(*one._batches.draw(np.random.default_rng(0))).detach()) for one in (fresh, run)]
    assert first[1] < 0.3 * first[0]
    whole = weights(train(config, dataset, tmp_path / "one", start=tiny_checkpoint))
    assert weights(train(config, dataset, tmp_path / "two", start=tiny_checkpoint)) == whole
    with pytest.raises(SpecError, match="another recipe"):
        train(config, dataset, tmp_path / "one")


def test_errors_far_from_the_membrane_may_weigh_less(masks: Path, dataset: Dataset) -> None:
    """And a state of a recipe that says nothing of it is that of equal weights."""
    config = recipe(masks)
    plan = config.optimisation.model_copy(update={"far_weight": 0.25, "latent_penalty": 0.0})
    run = TrainingRun(config.model_copy(update={"optimisation": plan}), dataset, "cpu")
    points, distances, times, sequences = run._batches.draw(np.random.default_rng(0))
    with torch.no_grad():
        errors = (run.decoder(points, times, run.latent_codes[sequences]) - distances).abs().numpy()
        found = float(run.loss(points, distances, times, sequences))
    far = np.abs(distances.numpy()) >= 0.08
    assert 0.1 < far.mean() < 0.9
    assert found == pytest.approx(np.where(far, 0.25 * errors, errors).mean(), rel=1e-5)
    assert run._recipe()["optimisation"]["far_weight"] == 0.25
    assert "far_weight" not in TrainingRun(config, dataset, "cpu")._recipe()["optimisation"]


def test_codes_of_other_cells_begin_at_the_mean(tiny_checkpoint: Checkpoint, masks: Path, dataset: Dataset) -> None:
    config = recipe(masks).model_copy(update={"id": "others"})
    codes = TrainingRun(config, dataset, "cpu", tiny_checkpoint).latent_codes.detach().numpy()
    assert not np.array_equal(codes, tiny_checkpoint.latent_codes)
    assert np.abs(codes - tiny_checkpoint.prior.mean).max() < 5 * config.optimisation.latent_spread


def test_a_model_of_another_network_is_not_gone_on_from(
    tiny_checkpoint: Checkpoint, masks: Path, dataset: Dataset
) -> None:
    config = recipe(masks)
    other = config.model_copy(update={"network": config.network.model_copy(update={"width": 64})})
    with pytest.raises(SpecError, match="another network"):
        TrainingRun(other, dataset, "cpu", tiny_checkpoint)


def test_training_learns_the_shapes(tiny_checkpoint: Checkpoint, masks: Path) -> None:
    config = recipe(masks)
    scores = score_reconstruction(tiny_checkpoint, config.data, held_out=lambda _: [], frames=range)  # type: ignore[arg-type]
    assert summarise(scores)["dice_training_frames"] > 0.9
    # the score is that of a dense evaluation, taken by hand
    truth = mask_frames(masks / "cell_1.tif")[2]
    sdf = tiny_checkpoint.decoder.fold(torch.from_numpy(tiny_checkpoint.latent_codes[1]), float(frame_times(4)[2]))
    found = evaluate_dense(sdf, Grid((24, 24, 24))) < 0
    by_hand = 2 * (truth & found).sum() / (truth.sum() + found.sum())
    assert next(s.dice for s in scores if (s.sequence, s.frame) == (1, 2)) == pytest.approx(by_hand)


def test_codes_tell_the_sequences_apart(tiny_checkpoint: Checkpoint, masks: Path) -> None:
    """With another sequence's code the reconstruction is worse: the codes carry the shapes."""
    truth = mask_frames(masks / "cell_0.tif")[0]
    agreement = []
    for code in tiny_checkpoint.latent_codes:
        sdf = tiny_checkpoint.decoder.fold(torch.from_numpy(code), -1.0)
        agreement.append(dice(truth, evaluate_dense(sdf, Grid((24, 24, 24))) < 0))
    assert agreement[0] == max(agreement)
    assert max(agreement[1:]) < 0.9


def test_held_out_frames_are_never_drawn(masks: Path, dataset: Dataset) -> None:
    from model.learning.recipe import HeldOut

    config = recipe(masks).model_copy(update={"held_out": HeldOut(every=2, offset=1)})
    run = TrainingRun(config, dataset, "cpu")
    assert {frame for _, frame in run._frames} == {0, 2}
    with pytest.raises(Exception, match="every frame is held out"):
        TrainingRun(config.model_copy(update={"held_out": HeldOut(every=1, offset=0)}), dataset, "cpu")


@pytest.mark.parametrize("name", ["celegans", "a549", "platynereis"])
def test_recipes_of_phantoms_are_complete(name: str) -> None:
    config = TrainConfig.read(RECIPES / f"{name}.toml")
    assert config.id == config.cell_type == name
    assert config.data.kind == "phantoms"
    assert config.data.sequences >= 33
    assert config.data.frames >= 30


@pytest.mark.parametrize(
    ("name", "sequences", "moments"), [("celegans", 2000, 8), ("platynereis", 2000, 8), ("a549", 250, 24)]
)
def test_recipes_draw_random_moments_and_start_from_shapes(name: str, sequences: int, moments: int) -> None:
    config = TrainConfig.read(RECIPES / f"{name}.toml")
    assert config.data.kind == "phantoms"
    assert config.data.sequences >= sequences
    assert config.data.cell_type in CELL_TYPES
    assert config.data.moments == moments
    assert config.network.rank == 64
    assert config.optimisation.latent_start == "shapes"
    assert config.density == ("composed" if name == "a549" else "likelihood")


def test_dividing_cells_are_not_composed(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text((RECIPES / "celegans.toml").read_text().replace('"likelihood"', '"composed"'))
    with pytest.raises(SpecError, match="divide cannot be composed"):
        TrainConfig.read(path)


def test_a_plan_can_be_changed_without_the_recipe() -> None:
    recipe = TrainConfig.read(RECIPES / "a549.toml")
    assert recipe.with_plan() == recipe
    shorter = recipe.with_plan(steps=10, rates=0.4)
    before, after = recipe.optimisation, shorter.optimisation
    assert after.steps == 10
    assert after.learning_rate == pytest.approx(0.4 * before.learning_rate)
    assert after.hidden_learning_rate == pytest.approx(0.4 * before.hidden_learning_rate)
    assert after.latent_learning_rate == pytest.approx(0.4 * before.latent_learning_rate)
    assert shorter.model_copy(update={"optimisation": before}) == recipe  # and nothing else


def test_broken_recipes_are_refused_by_member(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    with pytest.raises(SpecError, match="there is no recipe"):
        TrainConfig.read(path)
    path.write_text("id = ")
    with pytest.raises(SpecError, match="not TOML"):
        TrainConfig.read(path)
    path.write_text((RECIPES / "a549.toml").read_text().replace("steps = ", "stepz = "))
    with pytest.raises(SpecError, match=r"optimisation\.stepz"):
        TrainConfig.read(path)
