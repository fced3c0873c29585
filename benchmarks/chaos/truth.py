"""What the jobs ask for, and the bytes they must give: computed here, without the service."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from model.card import SHIPPED_MODELS, find_model
from model.spec import GenerationSpec

MODEL = "celegans"
DIVIDED = 4  # one request in so many is computed in shards
AUGMENTED = 1  # number of the first request that is an augmentation, and so is every DIVIDED-th after it
FORMATS = (["stl"], ["tiff"], ["stl", "ply"], ["obj", "tiff"])


@dataclass(frozen=True)
class Order:
    """A request, the files it names as uploads, and the SHA-256 of each file that it must give."""

    body: dict[str, Any]
    files: dict[str, str]
    path: str = "/v1/generations"
    uploads: dict[str, bytes] = field(default_factory=dict)


def orders(count: int, *, seed: int, long: bool = False) -> list[Order]:
    """Return different small requests with their answers: generations, augmentations, and with ``long`` all kinds.

    A reconstruction and an evaluation take a minute each, in one piece: two lost workers cost two minutes.
    """
    import torch

    torch.set_num_threads(1)
    made = _generations(count, seed=seed)
    made[AUGMENTED::DIVIDED] = [_augmentation(number, seed=seed) for number in range(len(made[AUGMENTED::DIVIDED]))]
    return [*made, _reconstruction(), _evaluation()] if long else made


def _answer(write: Callable[[Path], object]) -> dict[str, str]:
    """SHA-256 of each file that is written into a folder."""
    with tempfile.TemporaryDirectory() as place:
        write(Path(place))
        return {
            path.relative_to(place).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in Path(place).rglob("*")
            if path.is_file()
        }


def _checkpoint() -> Any:
    from model.network.checkpoint import load_checkpoint

    return load_checkpoint(find_model(MODEL, [SHIPPED_MODELS]))


def _augmentation(number: int, *, seed: int) -> Order:
    from model.augmentation import augment
    from model.augmentation_spec import AugmentationSpec

    body = {
        "model": MODEL, "source": {"kind": "learned", "index": number}, "seed": 1000 * seed + number, "count": 6,
        "frames": 4, "grid": 20, "warp": 0.2, "formats": ["stl", "tiff"],
    }  # fmt: skip
    spec = AugmentationSpec.model_validate(body).completed()
    return Order(body, _answer(lambda folder: augment(spec, _checkpoint(), folder)), path="/v1/augmentations")


def _reconstruction() -> Order:
    from model.fitting.reconstruction import reconstruct
    from model.reconstruction_spec import ReconstructionSpec
    from model.synthesis import synthesize

    with tempfile.TemporaryDirectory() as place:
        given = GenerationSpec(model=MODEL, seed=5, frames=4, grid=32, formats=["tiff"]).completed()
        synthesize(given, _checkpoint(), Path(place))
        source = Path(place) / "cell_0000" / "labels.tif"
        content = source.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        # A dividing cell has labels of its daughters: all of them are the cell.
        body = {
            "model": MODEL, "uploads": ["given.tif"], "labels": [1, 2, 3], "place": "omega", "method": "code",
            "frames": 6, "grid": 24, "formats": ["stl"],
        }  # fmt: skip
        spec = ReconstructionSpec.model_validate(body).with_uploads([(sha256, 4)]).completed()
        named = source.rename(Path(place) / "given.tif")
        files = _answer(lambda folder: reconstruct(spec, _checkpoint(), [named], folder))
    return Order(body, files, path="/v1/reconstructions", uploads={"given.tif": content})


def _evaluation() -> Order:
    from model.evaluation.request import evaluate_request
    from model.evaluation_spec import EvaluationSpec

    body = {"model": MODEL, "count": 4, "draws": 100}
    spec = EvaluationSpec.model_validate(body).completed()
    place = find_model(MODEL, [SHIPPED_MODELS])
    return Order(body, _answer(lambda folder: evaluate_request(spec, place, folder)), path="/v1/evaluations")


def _generations(count: int, *, seed: int) -> list[Order]:
    from model.synthesis import synthesize

    checkpoint = _checkpoint()
    made = []
    for number in range(count):
        body = {
            "model": MODEL, "seed": 1000 * seed + number, "frames": 6 + 8 * (number % 4), "grid": 16 + 4 * (number % 3),
            "formats": FORMATS[number % len(FORMATS)], "latent": {"kind": "learned", "index": number % 5},
        }  # fmt: skip
        if number % DIVIDED == DIVIDED - 1:
            body |= {"frames": 6, "grid": 16, "count": 40, "rotation": "random"}
        spec = GenerationSpec.model_validate(body).completed()
        made.append(Order(body, _answer(partial(synthesize, spec, checkpoint))))
    return made
