"""Training points drawn while training."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from model.learning.dataset import Dataset, build_dataset, moments_of
from model.learning.fresh import Epochs, steps_of_epoch
from model.learning.recipe import HeldOut, Optimisation, TrainConfig
from model.learning.sources import PhantomSource
from model.learning.train import Trained, TrainingRun, train
from model.network.autodecoder import NetworkConfig


def source(**changes: object) -> PhantomSource:
    values = {"cell_type": "celegans", "sequences": 2, "moments": 2, "points_per_frame": 1024, "first_seed": 5}
    return PhantomSource.model_validate({**values, **changes})


def config(*, fresh: bool = True, steps: int = 10) -> TrainConfig:
    return TrainConfig(
        id="fresh", title="", description="", cell_type="celegans", seed=9, threads=1, data=source(fresh=fresh),
        held_out=HeldOut(every=0), network=NetworkConfig(latent_size=4, width=16, depth=2, conditioning_width=8),
        optimisation=Optimisation(steps=steps, frames_per_step=2, points_per_frame=256, warm_up=1),
    )  # fmt: skip


def made_up(**arrays: object) -> Dataset:
    """A data set of two sequences of two frames of 1,024 points, without a folder."""
    samples = [np.zeros((2, 1024, 4), dtype=np.float16) for _ in range(2)]
    return Dataset(Path(), source(fresh=True), 13.5, 30.0, ["a", "b"], samples, {})


def test_an_epoch_sees_as_many_points_as_there_are() -> None:
    assert steps_of_epoch(config(), made_up()) == 2 * 2 * 1024 // (2 * 256)


def test_recipes_and_data_sets_from_before_stay_as_they_were() -> None:
    assert "fresh" not in source().model_dump_json()
    assert source(fresh=True).model_dump()["fresh"] is True
    assert "fresh" not in TrainingRun(config(fresh=False), made_up(), "cpu")._recipe()["data"]
    assert TrainingRun(config(), made_up(), "cpu")._recipe()["data"]["fresh"] is True
    with pytest.raises(ValidationError, match="random moments"):
        source(fresh=True, moments=None)


def test_every_epoch_has_moments_of_its_own() -> None:
    drawn = [moments_of(source(moments=6), 1, epoch) for epoch in ((), (9, 1), (9, 2), (8, 1))]
    assert len({times.tobytes() for times in drawn}) == 4
    assert np.array_equal(drawn[1], moments_of(source(moments=6), 1, (9, 1)))


def test_data_that_are_not_fresh_are_the_same_in_all_epochs(tmp_path: Path) -> None:
    dataset = made_up()
    with Epochs(config(fresh=False), dataset, tmp_path) as epochs:
        assert all(epochs.at(step) is dataset for step in (0, 8, 800))
    assert list(tmp_path.iterdir()) == []


def weights(trained: Trained) -> bytes:
    tensors = [value.numpy() for value in trained.decoder.state_dict().values()]
    return b"".join(np.ascontiguousarray(tensor).tobytes() for tensor in [*tensors, trained.latent_codes])


@pytest.mark.slow
def test_a_fresh_training_that_was_stopped_equals_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped in its second epoch, whose data are then lost and drawn again."""
    dataset = build_dataset(source(fresh=True), tmp_path / "dataset", workers=1)
    whole = weights(train(config(), dataset, tmp_path / "whole"))
    assert [place.name for place in (tmp_path / "whole").glob("epoch-*")] == ["epoch-000001"]
    assert weights(train(config(fresh=False), dataset, tmp_path / "same")) != whole
    advance = TrainingRun.advance

    def advance_and_die(self: TrainingRun, loss: object) -> float:
        if self.step == 9:
            raise KeyboardInterrupt
        return advance(self, loss)  # type: ignore[arg-type]

    monkeypatch.setattr(TrainingRun, "advance", advance_and_die)
    with pytest.raises(KeyboardInterrupt):
        train(config(), dataset, tmp_path / "half", save_every_s=0.0)
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "half" / "epoch-000001")
    assert weights(train(config(), dataset, tmp_path / "half")) == whole


@pytest.mark.slow
def test_epochs_that_are_over_are_removed_and_the_next_is_drawn_ahead(tmp_path: Path) -> None:
    dataset = build_dataset(source(fresh=True), tmp_path / "dataset", workers=1)
    with Epochs(config(steps=40), dataset, tmp_path / "state", workers=1) as epochs:
        first = epochs.at(8)
        assert first.uneven[0].tolist() == moments_of(source(fresh=True), 0, (9, 1)).tolist()
        assert not np.array_equal(first.samples[0][0], dataset.samples[0][0])
        second = epochs.at(16)
        assert second.uneven[0].tolist() == moments_of(source(fresh=True), 0, (9, 2)).tolist()
    assert {place.name for place in (tmp_path / "state").iterdir()} <= {"epoch-000002", "epoch-000003"}
