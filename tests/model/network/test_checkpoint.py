from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from model.card import CARRIED, SHIPPED_MODELS, load_card
from model.errors import CheckpointError, UploadError
from model.network.autodecoder import AutoDecoder, NetworkConfig
from model.network.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from worker.uploads.sandbox import inspect_file


@pytest.fixture
def folder(tiny_models: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_models / "tiny", tmp_path / "tiny"))


def rewrite(folder: Path, *, drop: str | None = None, **tensors: np.ndarray) -> None:
    """Change tensors and sign the card anew, as somebody would who wants the change to be believed."""
    weights = folder / "weights.safetensors"
    config = json.loads(weights.read_bytes()[8 : 8 + int.from_bytes(weights.read_bytes()[:8], "little")])
    found = load_file(weights) | tensors
    if drop:
        del found[drop]
    save_file(found, weights, metadata={AutoDecoder.architecture: config["__metadata__"][AutoDecoder.architecture]})
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    load_card(folder).model_copy(update={"sha256": digest}).write(folder)


def test_a_saved_model_is_read_back_exactly(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    card = tiny_checkpoint.card.model_dump(exclude={"sha256", "parameters", "latent_size", "latent_codes"})
    again = save_checkpoint(
        tmp_path / "tiny",
        decoder=tiny_checkpoint.decoder,
        prior=tiny_checkpoint.prior,
        card=card,
    )
    assert again.card == tiny_checkpoint.card  # checksum included: the same weights give the same file
    points = np.random.default_rng(0).uniform(-1, 1, (100, 3)).astype(np.float32)
    import torch

    first, second = (c.decoder.fold(torch.from_numpy(c.latent_codes[1]), 0.3) for c in (tiny_checkpoint, again))
    assert np.array_equal(first(points), second(points))


@pytest.mark.parametrize("name", ["celegans", "a549"])
def test_shipped_models_keep_their_bytes_when_saved_again(tmp_path: Path, name: str) -> None:
    """The format has not moved: the tensors are byte for byte those shipped, and the header only says more."""
    held = load_checkpoint(SHIPPED_MODELS / name)
    card = held.card.model_dump(exclude={"sha256", "parameters", "latent_size", "latent_codes"})
    half = parts(SHIPPED_MODELS / name / "weights.safetensors")[0]["latent_codes"]["dtype"] == "F16"
    save_checkpoint(tmp_path / name, decoder=held.decoder, prior=held.prior, card=card, half=half)
    (before, first), (after, second) = (
        parts(folder / name / "weights.safetensors") for folder in (SHIPPED_MODELS, tmp_path)
    )
    assert first == second
    was, now = before.pop("__metadata__"), after.pop("__metadata__")
    old_card, new_card = (json.loads(one.pop("cytosynth.card", "{}")) for one in (was, now))
    assert old_card.pop("grid_max", 512) in (512, 2048)  # all models had 512; now each format has its own limit
    assert was.items() <= now.items()
    assert old_card.items() <= new_card.items()
    assert before == after


def parts(path: Path) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file and its tensors."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    assert end % 8 == 0  # so that tensors can be mapped as they lie
    return json.loads(data[8:end]), data[end:]


def test_weights_say_what_the_model_is(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """What a card knows and weights do not imply travels with them, and the upload's reader gives it back."""
    card = tiny_checkpoint.card.model_dump(exclude={"sha256", "parameters", "latent_size", "latent_codes"})
    changed = card | {"topology": "division", "title": "Zelle \u00b5", "lipschitz": 1.75, "minutes": 12.5}
    saved = save_checkpoint(
        tmp_path / "tiny", decoder=tiny_checkpoint.decoder, prior=tiny_checkpoint.prior, card=changed
    )
    facts = inspect_file(tmp_path / "tiny" / "weights.safetensors", "safetensors")
    assert facts["card"] == saved.card.model_dump(include=set(CARRIED))
    assert (facts["card"]["topology"], facts["card"]["title"]) == ("division", "Zelle \u00b5")
    assert saved.card.sha256 != tiny_checkpoint.card.sha256


def test_rotations_of_training_sequences_are_kept(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    card = tiny_checkpoint.card.model_dump(exclude={"sha256", "parameters", "latent_size", "latent_codes"})
    turns = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    kept = save_checkpoint(
        tmp_path / "tiny", decoder=tiny_checkpoint.decoder, prior=tiny_checkpoint.prior, card=card, rotations=turns
    )
    assert tiny_checkpoint.rotations is None
    assert kept.rotations is not None
    assert np.array_equal(kept.rotations, turns)
    rewrite(tmp_path / "tiny", rotations=np.zeros((2, 4), np.float32))
    with pytest.raises(CheckpointError, match=r"'rotations' is \(2, 4\)"):
        load_checkpoint(tmp_path / "tiny")


def test_one_changed_byte_is_refused(folder: Path) -> None:
    weights = folder / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CheckpointError, match="altered"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("tensor", "value", "words"),
    [
        ("latent_codes", np.zeros((3, 5), np.float32), r"\(3, 5\)"),
        ("latent_codes", np.zeros((3, 4), np.float64), "float64"),
        ("prior.bandwidth", np.array([np.nan], np.float32), "NaN"),
        ("decoder.out_bias", np.array([np.inf], np.float32), "infinity"),
        ("payload", np.zeros(3, np.float32), "'payload' is not known"),
    ],
)
def test_wrong_tensors_are_refused_by_name(folder: Path, tensor: str, value: np.ndarray, words: str) -> None:
    rewrite(folder, **{tensor: value})
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(folder)


def test_a_missing_tensor_is_refused_by_name(folder: Path) -> None:
    rewrite(folder, drop="decoder.mix.bias")
    with pytest.raises(CheckpointError, match=r"'decoder\.mix\.bias' is missing"):
        load_checkpoint(folder)


def test_a_pickle_under_the_name_of_weights_is_refused(folder: Path) -> None:
    (folder / "weights.safetensors").write_bytes(b"\x80\x04\x95" + bytes(100))
    digest = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    load_card(folder).model_copy(update={"sha256": digest}).write(folder)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(folder)


def test_missing_files_and_broken_cards_are_named(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no weights\.safetensors"):
        load_checkpoint(folder)
    (folder / "card.json").write_text('{"id": "Tiny!"}')
    with pytest.raises(CheckpointError, match="malformed at"):
        load_checkpoint(folder)
    (folder / "card.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no card\.json"):
        load_checkpoint(folder)


def test_a_network_with_a_rank_is_read_back_exactly_and_passes_the_check_of_uploads(
    tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    decoder = AutoDecoder(NetworkConfig(latent_size=4, width=16, depth=3, conditioning_width=8, rank=5, frequency=1.0))
    card = tiny_checkpoint.card.model_dump(exclude={"sha256", "parameters", "latent_size", "latent_codes"})
    saved = save_checkpoint(tmp_path / "ranked", decoder=decoder, prior=tiny_checkpoint.prior, card=card)
    again = load_checkpoint(tmp_path / "ranked")
    assert again.decoder.config == decoder.config
    assert saved.card.parameters == sum(weight.numel() for weight in decoder.parameters())
    theirs = again.decoder.state_dict()
    assert all(value.equal(theirs[name]) for name, value in decoder.state_dict().items())
    facts = inspect_file(tmp_path / "ranked" / "weights.safetensors", "safetensors")
    assert (facts["network"]["rank"], facts["parameters"]) == (5, saved.card.parameters)


@pytest.mark.parametrize("broken", [None, np.inf, np.nan])
def test_codes_and_conditioning_may_be_kept_in_half_precision(
    tiny_checkpoint: Checkpoint, tmp_path: Path, broken: float | None
) -> None:
    config = NetworkConfig(latent_size=4, width=16, depth=3, conditioning_width=32, rank=5, frequency=1.0)
    decoder = AutoDecoder(config)
    if broken is not None:
        decoder.low_rank.third.bias.data[7] = broken
    card = tiny_checkpoint.card.model_dump(exclude={"sha256", "parameters", "latent_size", "latent_codes"})

    def save(half: bool) -> Checkpoint:
        return save_checkpoint(tmp_path / str(half), decoder=decoder, prior=tiny_checkpoint.prior, card=card, half=half)

    weights = tmp_path / "True" / "weights.safetensors"
    if broken is not None:
        with pytest.raises(CheckpointError, match=r"'decoder\.low_rank\.third\.bias' holds NaN or infinity"):
            save(True)
        with pytest.raises(UploadError, match="NaN or infinity"):
            inspect_file(weights, "safetensors")
        return
    full, half = save(False), save(True)
    assert weights.stat().st_size < 0.7 * (tmp_path / "False" / "weights.safetensors").stat().st_size
    assert np.array_equal(half.latent_codes, full.latent_codes.astype(np.float16).astype(np.float32))
    theirs = half.decoder.state_dict()
    for name, value in full.decoder.state_dict().items():
        assert theirs[name].equal(value.half().float() if name.startswith("low_rank.") else value)
    facts = inspect_file(weights, "safetensors")
    assert (facts["parameters"], facts["latent_codes"]) == (half.card.parameters, len(half.latent_codes))
