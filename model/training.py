"""From a user's files to a trained model: reading, checking, import, training, calibration, density, card, figures.

``python -m model train`` does the second half with :func:`save_model`; a job of the service does all of it with
:func:`train_model`, and goes on where an earlier attempt was killed.

Promises: what has been read, imported and learned is kept in a folder, so an attempt goes on from it; the weights and
the curve are those of an undisturbed run on the same machine.
Does not promise: that of the card, which has the date and the minutes, or of a training that a time limit or its owner
has ended.
"""

from __future__ import annotations

import csv
import datetime
import hashlib
import io
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model import __version__
from model.card import CARD_FILE, WEIGHTS_FILE
from model.domain import Grid
from model.errors import DatasetError
from model.evaluation.imported import FIGURES_FILE, PICTURE_FILE, write_figures
from model.evaluation.left_out_frames import LeftOutFrames
from model.formats import media_type
from model.learning.dataset import INDEX_FILE, Dataset, load_dataset
from model.learning.import_report import as_json, taken_rows
from model.learning.imported_cells import ImportPlan, import_sequences
from model.learning.recipe import HeldOut, TrainConfig
from model.learning.recipe_template import write_recipe
from model.learning.sources import ImportedSource
from model.learning.train import CurveRow, Trained, TrainProgress, adopt_state, train
from model.learning.validation import validate
from model.network.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from model.network.density import choose_density, composed_density
from model.network.latent import Prior, fit_prior
from model.network.lipschitz import steepest_slope
from model.output.manifest import MANIFEST_FILE, FileEntry, Manifest, ModelEntry, SoftwareEntry, Units, WarningEntry
from model.readers.survey import Surveyed
from model.training_spec import DATASET_BYTES_MAX, POINT_BYTES, TrainingSpec, new_cells_of

log = logging.getLogger(__name__)

ATTEMPTS_FOLDER = "attempts"  # of the training state of each attempt, in what is kept between them
MODEL_FOLDER = "trained"  # of the weights, the card and the figures, in the result
CURVE_FILE, REPORT_FILE, RECIPE_FILE = "curve.csv", "validation.json", "recipe.json"
READ, IMPORTED, TRAINED = 0.03, 0.12, 0.97  # shares of the whole at the end of each stage, roughly
PROBED = 512  # learned codes at most, and drawn ones, whose steepest slope is looked for
GRID = Grid((64, 64, 64))  # on which the figures are taken


@dataclass(frozen=True, kw_only=True)
class TrainingProgress:
    """Progress of a training, from the first file to the last figure.

    Attributes
    ----------
    stage
        ``reading``, ``importing``, ``training`` or ``figures``.
    frame, frames
        Steps done and in all while it trains; otherwise frames of the cells.
    fraction
        Of the whole.
    kept
        Whether this attempt has come further than those before it, and that is on disk.
    """

    stage: str
    frame: int
    frames: int
    fraction: float
    eta_s: float | None = None
    loss: float | None = None
    dice: float | None = None
    kept: bool = False


OnProgress = Callable[[TrainingProgress], None]


def train_model(
    spec: TrainingSpec,
    sources: Callable[[], AbstractContextManager[Path]],
    home: Path,
    folder: Path,
    *,
    attempt: str,
    on_progress: OnProgress = lambda _progress: None,
    should_stop: Callable[[], bool] = lambda: False,
    save_every_s: float = 30.0,
    device: str = "cpu",
) -> Checkpoint:
    """Train a model on the cells of some files, or go on with it, and write the result, the manifest last.

    Parameters
    ----------
    spec
        A completed spec with the name of its model.
    sources
        Opens the folder of the uploaded files; not called once they have been read.
    home
        What is kept between attempts: training points, membranes, the training state of each attempt.
    folder
        Gets ``trained/``, ``curve.csv``, ``validation.json``, ``recipe.json`` and ``manifest.json``.
    attempt
        Names this attempt; the state of each is kept apart, so that two that overlap do not meet.
    on_progress
        Called about once a second, while reading after each frame; an exception raised there ends the work.
    should_stop
        Ends the training when it says so; what was learned best is the result.
    save_every_s
        Seconds between two savings of the training state.
    device
        Where torch computes the training.

    Returns
    -------
    Checkpoint
        The model, as it is in ``folder/trained``.

    Raises
    ------
    DatasetError
        If nothing can be trained on; the message holds all findings.
    """
    recipe, dataset = _prepared(spec, sources, home, on_progress)
    trained = _trained(
        spec, recipe, dataset, home / ATTEMPTS_FOLDER / attempt, on_progress=on_progress, should_stop=should_stop,
        save_every_s=save_every_s, device=device,
    )  # fmt: skip
    command = f"POST /v1/trainings with the spec in {MANIFEST_FILE}"
    shown = TrainingProgress(stage="figures", frame=0, frames=0, fraction=TRAINED)
    on_progress(shown)
    checkpoint = save_model(trained, recipe, dataset, folder / MODEL_FOLDER, device=device, command=command)
    write_figures(
        checkpoint, dataset, folder / MODEL_FOLDER, held_out=recipe.held_out.frames,
        new_cells=new_cells_of(steps=trained.steps, width=recipe.network.width, depth=recipe.network.depth),
        on_frame=lambda _score: on_progress(shown),
    )  # fmt: skip
    checkpoint = load_checkpoint(folder / MODEL_FOLDER)
    (folder / CURVE_FILE).write_text(_curve(trained.curve), encoding="utf-8")
    for name in (REPORT_FILE, RECIPE_FILE):
        shutil.copyfile(home / name, folder / name)
    _write_manifest(spec, checkpoint, folder, device=device, warnings=_warnings(home, recipe, trained))
    return checkpoint


def save_model(
    trained: Trained, recipe: TrainConfig, dataset: Dataset, folder: Path, *, device: str, command: str
) -> Checkpoint:
    """Calibrate a trained network, fit the density of its codes, and write weights and card into a model's folder.

    Parameters
    ----------
    trained, recipe, dataset
        What was trained, by what recipe, on what.
    folder
        Made when missing.
    device
        Where it was trained.
    command
        What repeats the training, for the card.
    """
    codes = trained.latent_codes
    probed = codes[:: -(-len(codes) // PROBED)]
    drawn: list[NDArray[np.float32]] = []
    if recipe.density == "bandwidth":
        prior = fit_prior(codes, bandwidth=recipe.prior_bandwidth)
    else:
        prior = _composed(codes, recipe) if recipe.density == "composed" else choose_density(codes)[0]
        rng = np.random.default_rng(0)  # new codes may lie farther out than learned ones
        drawn = [prior.sample(rng) for _ in range(PROBED)]
    slope = steepest_slope(trained.decoder, [*probed, *drawn])
    left_out = recipe.held_out.frames(len(dataset.samples[0]))
    return save_checkpoint(
        folder,
        decoder=trained.decoder,
        prior=prior,
        half=recipe.stored_precision == "float16",
        card={
            "id": recipe.id,
            "title": recipe.title,
            "description": recipe.description,
            "cell_type": recipe.cell_type,
            "licence": recipe.licence,
            "created": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "micrometres": dataset.micrometres,
            "minutes": dataset.minutes,
            "lipschitz": round(1.1 * slope, 3),
            "topology": recipe.topology,
            "grid_min": recipe.grid_min,
            "training": {
                "data": f"{recipe.data.kind}, {recipe.cell_type}",
                "sequences": len(dataset.samples),
                "frames": len(dataset.samples[0]),
                "held_out_frames": ", ".join(map(str, left_out)) or "none",
                "steps": trained.steps,
                "points": trained.points,
                "minutes": round(trained.minutes, 1),
                "device": device,
                "seed": recipe.seed,
                "recipe": command,
            },
        },
    )


def _prepared(
    spec: TrainingSpec, sources: Callable[[], AbstractContextManager[Path]], home: Path, on_progress: OnProgress
) -> tuple[TrainConfig, Dataset]:
    """Return the recipe and the training sequences; made of the files unless an earlier attempt has."""
    path, data = home / RECIPE_FILE, home / "dataset"
    if not path.is_file():
        if (data / INDEX_FILE).is_file():  # killed between the two: its report and recipe are made again
            (data / INDEX_FILE).unlink()
        with sources() as folder:
            recipe = _imported(spec, folder, home, on_progress)
        partial = path.with_suffix(".partial")
        partial.write_text(recipe.model_dump_json(indent=1) + "\n", encoding="utf-8")
        partial.replace(path)
    return TrainConfig.model_validate_json(path.read_bytes()), load_dataset(data)


def _imported(spec: TrainingSpec, folder: Path, home: Path, on_progress: OnProgress) -> TrainConfig:
    """Check the files, make training sequences of them, and return the recipe."""

    def shown(stage: str, begin: float, end: float) -> Callable[[int, int], None]:
        return lambda done, total: on_progress(
            TrainingProgress(
                stage=stage,
                frame=done,
                frames=total,
                fraction=begin + (end - begin) * done / max(total, 1),
                kept=stage == "importing",
            )
        )

    found = validate(folder, voxel=spec.voxel, interval=spec.interval, on_frame=shown("reading", 0.0, READ))
    if found.refusal is not None:
        raise DatasetError(found.refusal)
    recordings, surveyed = found.recordings, found.surveyed
    report = as_json(found.rows, taken_rows(recordings, surveyed))
    chosen = found.usable[: spec.sequences]
    _check_size(spec, chosen)
    minutes = next((one.calibration.minutes for one in recordings if one.calibration.minutes), None)
    report |= {
        "trained_on": [one.sequence.name for one in chosen],
        "left_out": [one.sequence.name for one in surveyed if one not in chosen],
        "interval_known": minutes is not None,
    }
    home.mkdir(parents=True, exist_ok=True)
    (home / REPORT_FILE).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    plan = ImportPlan(
        margin=spec.margin, scale=spec.scale, points_per_frame=spec.points, bend_share=spec.bend_share,
        minutes=minutes or 1.0,
    )  # fmt: skip
    dataset = import_sequences(
        recordings, chosen, home / "dataset", plan=plan, on_frame=shown("importing", READ, IMPORTED), resume=True
    )
    return _recipe(spec, dataset, chosen)


def _recipe(spec: TrainingSpec, dataset: Dataset, surveyed: Sequence[Surveyed]) -> TrainConfig:
    """Return the recipe that an import writes, with what the spec says otherwise."""
    default = TrainConfig.read(write_recipe(dataset, list(surveyed), steps=spec.steps)).with_plan(rates=spec.rates)
    network = default.network.model_copy(
        update={
            "width": spec.width,
            "depth": spec.depth,
            "conditioning_width": min(default.network.conditioning_width, spec.width),
            "latent_size": spec.latent_size or default.network.latent_size,
        }
    )
    plan = default.optimisation
    every = default.held_out.every if spec.left_out_every is None else spec.left_out_every
    return default.model_copy(
        update={
            "id": spec.model or spec.name,
            "title": spec.title or spec.name,
            "description": spec.description if spec.description is not None else default.description,
            "cell_type": spec.cell_type or spec.name,
            "licence": spec.licence,
            "seed": spec.seed or 0,
            "data": ImportedSource(kind="imported", folder=Path("dataset")),
            "held_out": HeldOut(every=every, offset=min(default.held_out.offset, max(every - 1, 0))),
            "network": network,
            "optimisation": plan.model_copy(update={"warm_up": min(plan.warm_up, spec.steps // 10)}),
        }
    )


def _composed(codes: NDArray[np.float32], recipe: TrainConfig) -> Prior:
    return composed_density(
        codes, parts=recipe.parts, near=recipe.near, bandwidth=recipe.prior_bandwidth, mirrors=recipe.mirrors
    )


def _trained(
    spec: TrainingSpec,
    recipe: TrainConfig,
    dataset: Dataset,
    mine: Path,
    *,
    on_progress: OnProgress,
    should_stop: Callable[[], bool],
    save_every_s: float,
    device: str,
) -> Trained:
    """Train in the folder of this attempt, from the furthest state of all attempts, which lie beside it."""
    others = [path for path in mine.parent.iterdir() if path != mine] if mine.parent.is_dir() else []
    begun = adopt_state(others, mine)
    if begun is not None:
        log.info("training %s goes on from step %d", recipe.id, begun)
    for path in others:
        shutil.rmtree(path, ignore_errors=True)
    frames = LeftOutFrames(dataset, recipe.held_out.frames)

    def show(now: TrainProgress) -> None:
        on_progress(
            TrainingProgress(
                stage="training",
                frame=now.step,
                frames=now.steps,
                fraction=IMPORTED + (TRAINED - IMPORTED) * now.step / now.steps,
                eta_s=round(now.eta_s, 1),
                loss=now.loss,
                dice=now.dice,
                kept=now.saved > (begun or 0),
            )
        )

    return train(
        recipe, dataset, mine, device=device, save_every_s=save_every_s, on_progress=show,
        measure=frames.measure if frames else None,
        should_stop=lambda seconds: should_stop() or (spec.minutes is not None and seconds > 60.0 * spec.minutes),
    )  # fmt: skip


def _check_size(spec: TrainingSpec, chosen: Sequence[Surveyed]) -> None:
    frames = sum(len(one.sequence.frames) for one in chosen)
    size = frames * spec.points * POINT_BYTES
    if size > DATASET_BYTES_MAX:
        raise DatasetError(
            f"{len(chosen)} sequences have {frames} frames, whose training points take {size / 2**30:.1f} GiB; at most "
            f"{DATASET_BYTES_MAX / 2**30:g} GiB are allowed: lower points or sequences"
        )


def _curve(rows: Sequence[CurveRow]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", "loss", "dice_left_out_frames"])
    writer.writerows([row.step, row.loss, "" if row.dice is None else row.dice] for row in rows)
    return text.getvalue()


def _warnings(home: Path, recipe: TrainConfig, trained: Trained) -> list[WarningEntry]:
    report = json.loads((home / REPORT_FILE).read_bytes())
    found = []
    if trained.stopped:
        message = f"training ended after {trained.steps} of {recipe.optimisation.steps} steps"
        found.append(WarningEntry(code="stopped_early", message=message))
    if report["left_out"]:
        names = ", ".join(report["left_out"][:5]) + (" …" if len(report["left_out"]) > 5 else "")
        message = f"{len(report['left_out'])} sequences were left out, {names}; {REPORT_FILE} says why"
        found.append(WarningEntry(code="sequences_left_out", message=message))
    if not report["interval_known"]:
        message = "the minutes between frames are not known; 1 was taken: give interval"
        found.append(WarningEntry(code="interval_unknown", message=message))
    return found


def _write_manifest(
    spec: TrainingSpec, checkpoint: Checkpoint, folder: Path, *, device: str, warnings: list[WarningEntry]
) -> None:
    card = checkpoint.card
    names = [f"{MODEL_FOLDER}/{name}" for name in (CARD_FILE, WEIGHTS_FILE, FIGURES_FILE, PICTURE_FILE)]
    files = []
    for name in sorted([*names, CURVE_FILE, REPORT_FILE, RECIPE_FILE]):
        content = (folder / name).read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        files.append(FileEntry(name=name, bytes=len(content), sha256=sha256, media_type=media_type(name)))
    manifest = Manifest(
        spec=spec.model_dump(mode="json"),
        model=ModelEntry(id=card.id, sha256=card.sha256),
        software=SoftwareEntry(version=__version__),
        device_class=device,
        units=Units(
            micrometres=card.micrometres, minutes=card.minutes, spacing=[step * card.micrometres for step in GRID.step]
        ),
        cells=[],
        files=files,
        warnings=warnings,
    )
    (folder / MANIFEST_FILE).write_bytes(manifest.to_json())
