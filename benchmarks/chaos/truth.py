"""What the jobs ask for, and the bytes they must give: computed here, without the service.

Every kind of job takes part. Trainings, reconstructions and evaluations are of ellipsoids and of a network that learns
them within seconds, so that each of their jobs is over before faults have hit it three times.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from app.services.trainings import training_limits
from app.settings import AppSettings
from model.augmentation_spec import AugmentationSpec
from model.card import SHIPPED_MODELS, find_model
from model.evaluation_spec import EvaluationSpec
from model.reconstruction_spec import ReconstructionSpec
from model.spec import GenerationSpec
from model.training_spec import TrainingSpec
from worker.kinds.table import AUGMENTATION, EVALUATION, GENERATION, KINDS, RECONSTRUCTION, TRAINING

MODEL = "celegans"
DIVIDED = 4  # one generation in so many is computed in shards
FORMATS = (["stl"], ["tiff"], ["stl", "ply"], ["obj", "tiff"])
OF_A_SORT = 2  # trainings, and reconstructions: of one cell, and of all of a recording
SIDE, FRAMES, VOXEL, INTERVAL = 20, 4, [0.5, 0.5, 0.5], 2.0  # of the volumes that are uploaded
CELLS = tuple(f"cell_{number}.tif" for number in range(4))
TOGETHER = "together.tif"  # two cells in one volume
LEARNED = {
    "name": "ellipsoids", "uploads": list(CELLS), "voxel": VOXEL, "interval": INTERVAL, "points": 1024,
    "left_out_every": 0, "latent_size": 4, "width": 24, "depth": 2, "steps": 300,
}  # fmt: skip
OF_TRAINING = ("trained/weights.safetensors", "curve.csv")  # the card has the date and the minutes
OWNER = ""  # as the service calls a caller without a key


@dataclass(frozen=True)
class Order:
    """A request, the files it names as uploads, and the SHA-256 of each file that it must give."""

    kind: str
    body: dict[str, Any]
    files: dict[str, str]
    uploads: dict[str, bytes] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Address that accepts it."""
        return KINDS[self.kind].path


def orders(generations: int, models: Path, *, seed: int) -> list[Order]:
    """Return different small requests of every kind with their answers.

    Parameters
    ----------
    generations
        How many of this kind; beside them there are a third as many augmentations, and one or two of each other kind.
    models
        Folder that gets the model of which reconstructions and evaluations are; the service must have it too.
    seed
        Of the requests.
    """
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        trained = pool.submit(_trainings, models, seed=seed)
        made = [pool.submit(_generation, number, seed=seed) for number in range(generations)]
        made += [pool.submit(_augmentation, number, seed=seed) for number in range(max(1, generations // 3))]
        place, trainings = trained.result()
        made += [pool.submit(_evaluation, place)]
        made += [pool.submit(_reconstruction, place, number) for number in range(OF_A_SORT)]
        return [*(one.result() for one in made), *trainings]


def _one_thread() -> None:
    """Compute as the service's workers do."""
    import torch

    torch.set_num_threads(1)


def _answer(write: Callable[[Path], object]) -> dict[str, str]:
    """SHA-256 of each file that is written into a folder."""
    with tempfile.TemporaryDirectory() as place:
        write(Path(place))
        return _sums(Path(place))


def _sums(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _checkpoint() -> Any:
    from model.network.checkpoint import load_checkpoint

    return load_checkpoint(find_model(MODEL, [SHIPPED_MODELS]))


def _generation(number: int, *, seed: int) -> Order:
    from model.synthesis import synthesize

    body = {
        "model": MODEL, "seed": 1000 * seed + number, "frames": 6 + 8 * (number % 4), "grid": 16 + 4 * (number % 3),
        "formats": FORMATS[number % len(FORMATS)], "latent": {"kind": "learned", "index": number % 5},
    }  # fmt: skip
    if number % DIVIDED == DIVIDED - 1:
        body |= {"frames": 6, "grid": 16, "count": 40, "rotation": "random"}
    spec = GenerationSpec.model_validate(body).completed()
    return Order(GENERATION.name, body, _answer(partial(synthesize, spec, _checkpoint())))


def _augmentation(number: int, *, seed: int) -> Order:
    from model.augmentation import augment

    body = {
        "model": MODEL, "source": {"kind": "learned", "index": number}, "seed": 1000 * seed + number, "count": 6,
        "frames": 4, "grid": 20, "warp": 0.2, "formats": ["stl", "tiff"],
    }  # fmt: skip
    spec = AugmentationSpec.model_validate(body).completed()
    return Order(AUGMENTATION.name, body, _answer(lambda folder: augment(spec, _checkpoint(), folder)))


def _trainings(models: Path, *, seed: int) -> tuple[Path, list[Order]]:
    """Train; return the folder of the first model, and the requests for the same ones."""
    from model.training import MODEL_FOLDER, train_model

    made, limits = [], training_limits(AppSettings())
    with _uploaded(CELLS) as (sources, uploads):
        folder = sources[0].parent.rename(sources[0].parent.with_name(LEARNED["name"]))  # as a worker calls it

        @contextmanager
        def opened() -> Iterator[Path]:
            yield folder

        for number in range(OF_A_SORT):
            body = LEARNED | {"seed": 1000 * seed + number}
            spec = _with_sums(TrainingSpec.model_validate(body), uploads).within(limits).completed()
            # The model of this folder has another name than those that the service makes: another owner.
            with tempfile.TemporaryDirectory() as home, tempfile.TemporaryDirectory() as result:
                card = train_model(
                    spec.named_for("chaos"), opened, Path(home) / "state", Path(result), attempt="1"
                ).card
                files = {name: sha256 for name, sha256 in _sums(Path(result)).items() if name in OF_TRAINING}
                if not made:
                    place = models / card.id
                    shutil.copytree(Path(result) / MODEL_FOLDER, place)
            made.append(Order(TRAINING.name, body, files, uploads))
    return place, made


def _reconstruction(place: Path, number: int) -> Order:
    """One cell; or all of a recording, in shards."""
    from model.fitting.reconstruction import reconstruct
    from model.network.checkpoint import load_checkpoint

    body = {
        "model": place.name, "uploads": [CELLS[number]], "voxel": VOXEL, "method": "code", "frames": 3, "grid": 16,
        "score_grid": 16, "formats": ["stl"],
    }  # fmt: skip
    if number:
        body |= {"uploads": [TOGETHER], "cells": "all"}
    with _uploaded(body["uploads"]) as (sources, uploads):
        spec = _with_sums(ReconstructionSpec.model_validate(body), uploads).completed()
        files = _answer(lambda folder: reconstruct(spec, load_checkpoint(place), sources, folder))
    return Order(RECONSTRUCTION.name, body, files, uploads)


def _evaluation(place: Path) -> Order:
    from model.evaluation.request import evaluate_request

    body = {
        "model": place.name, "uploads": list(CELLS), "voxel": VOXEL, "interval": INTERVAL, "count": 4, "draws": 100,
    }  # fmt: skip
    with _uploaded(CELLS) as (sources, uploads):
        spec = _with_sums(EvaluationSpec.model_validate(body), uploads).completed()
        files = _answer(lambda folder: evaluate_request(spec, place, folder, uploads=sources[0].parent))
    return Order(EVALUATION.name, body, files, uploads)


@contextmanager
def _uploaded(names: Any) -> Iterator[tuple[list[Path], dict[str, bytes]]]:
    """Yield files in a folder of their own, and their contents by name."""
    contents = {name: _volume([int(name[5])] if name != TOGETHER else [0, 2]) for name in names}
    with tempfile.TemporaryDirectory() as above:
        shelf = Path(above) / "uploads"
        shelf.mkdir()
        for name, content in contents.items():
            (shelf / name).write_bytes(content)
        yield [shelf / name for name in names], contents


def _with_sums(spec: Any, uploads: dict[str, bytes]) -> Any:
    """Return a spec of uploads as the service completes it."""
    return spec.with_uploads([(hashlib.sha256(content).hexdigest(), FRAMES) for content in uploads.values()])


def _volume(cells: list[int]) -> bytes:
    """Return a label TIFF of ellipsoids side by side, which grow, each of its own axes."""
    axis = np.linspace(-1.0, 1.0, SIDE)
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    boxes = []
    for label, number in enumerate(cells, start=1):
        radii = 0.3 + 0.08 * np.roll(np.arange(3.0), number) + 0.02 * number
        inside = [(x / radii[0]) ** 2 + (y / radii[1]) ** 2 + (z / radii[2]) ** 2 < (1.0 + 0.08 * t) ** 2
                  for t in range(FRAMES)]  # fmt: skip
        boxes.append(label * np.array(inside, dtype=np.uint8))
    file = io.BytesIO()
    tifffile.imwrite(file, np.concatenate(boxes, axis=3), compression="zlib")
    return file.getvalue()
