"""Trained models of the method's authors: an experiment's folder becomes a checkpoint of the service.

The only place that opens their ``.pth`` files, from the command line and as plain tensors (``weights_only``); the
service reads safetensors only.

Promises: the weights, codes and rotations of the experiment, unchanged unless x and y are to change places; weight
normalisation is multiplied out.
Does not promise: physical units, which the experiment does not hold: a unit of Ω and the duration of τ must be given.

Layout: ``specs.json``; ``model_parameters/model.pth`` or ``eNNNN_model.pth``; ``latent_codes/[eNNNN_]lat_vecs.mat`` and
``rot_angs.mat`` (Euler angles in radians, about x, then the turned y, then the turned z; points are row vectors).
"""

from __future__ import annotations

import datetime
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy.io import loadmat
from scipy.spatial.transform import Rotation
from torch import Tensor

from model.errors import CheckpointError
from model.network.autodecoder import AutoDecoder
from model.network.checkpoint import Checkpoint, save_checkpoint
from model.network.latent import fit_prior
from model.network.lipschitz import steepest_slope
from model.network.wiesner2022 import SPACE_TIME, ReleasedConfig, ReleasedDecoder

_EPOCH = re.compile(r"e(\d+)_")


@dataclass(frozen=True)
class Experiment:
    """A released experiment, read.

    Attributes
    ----------
    codes
        (s, c) float32 learned codes.
    rotations
        (s, 4) unit quaternions [w, x, y, z], None when rotations were not optimised.
    specs
        What ``specs.json`` says.
    """

    decoder: ReleasedDecoder
    codes: NDArray[np.float32]
    rotations: NDArray[np.float32] | None
    specs: dict[str, Any]
    epoch: int


def read_experiment(folder: Path, *, epoch: int | None = None) -> Experiment:
    """Read a folder in the authors' layout.

    Parameters
    ----------
    folder
        ``experiments/<name>``.
    epoch
        Which saved state; the final one, or else the latest, when None.

    Raises
    ------
    CheckpointError
        If a file is missing, is not what its name says, or holds a network that is not supported.
    """
    specs = _specs(folder / "specs.json")
    config = _config(specs)
    weights = _state_file(folder / "model_parameters", "model.pth", epoch)
    decoder, trained = _decoder(config, weights)
    codes = _matrix(_state_file(folder / "latent_codes", "lat_vecs.mat", epoch), "lat_vecs")
    if codes.shape[1] != config.latent_size:
        raise CheckpointError(f"the codes hold {codes.shape[1]} numbers, specs.json says {config.latent_size}")
    rotations = None
    if specs.get("OptimizeRot"):
        angles = _matrix(_state_file(folder / "latent_codes", "rot_angs.mat", epoch), "rot_ang")
        if angles.shape != (len(codes), 3):
            raise CheckpointError(f"rot_ang is {angles.shape}; three angles for each of {len(codes)} codes are wanted")
        rotations = quaternions_of_angles(angles)
    return Experiment(decoder, codes.astype(np.float32), rotations, specs, trained)


def with_x_and_y_swapped(experiment: Experiment) -> Experiment:
    """Change the places of the first two coordinates: the result at (x, y, z) is the experiment at (y, x, z).

    The release makes its distances of images, whose first axis is the row, so the first coordinate of its networks is
    the y of an image. Rotations R become P R P, where P changes x and y, so that cells turn as they did.
    """
    decoder = ReleasedDecoder(experiment.decoder.config)
    decoder.load_state_dict(experiment.decoder.state_dict())
    config = decoder.config
    for layer, weight in enumerate(decoder.weights):
        if layer == 0 or layer in config.latent_in or config.xyz_in_all:
            x = weight.shape[1] - SPACE_TIME  # a point and the time are the last columns
            weight.data[:, [x, x + 1]] = weight.data[:, [x + 1, x]]
    decoder.requires_grad_(False)
    rotations = experiment.rotations
    if rotations is not None:
        rotations = rotations[:, [0, 2, 1, 3]] * np.array([1, -1, -1, -1], dtype=np.float32)
    return replace(experiment, decoder=decoder, rotations=rotations)


def save_experiment(
    experiment: Experiment,
    folder: Path,
    *,
    title: str,
    cell_type: str,
    licence: str,
    micrometres: float,
    minutes: float,
    topology: Literal["single", "division"],
) -> Checkpoint:
    """Write an experiment as a model that the service can use; its folder's name is the model's id."""
    specs, codes = experiment.specs, experiment.codes
    # steepest_slope asks only for fold()
    slope = steepest_slope(cast(AutoDecoder, experiment.decoder), codes)
    return save_checkpoint(
        folder,
        decoder=experiment.decoder,
        prior=fit_prior(codes),
        rotations=experiment.rotations,
        card={
            "id": folder.name,
            "title": title,
            "description": "A trained model of the method's authors, imported as it is.",
            "cell_type": cell_type,
            "licence": licence,
            "created": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "micrometres": micrometres,
            "minutes": minutes,
            "lipschitz": round(1.1 * slope, 3),
            "topology": topology,
            "training": {
                "data": "the authors' own",
                "sequences": len(codes),
                "frames": int(specs.get("ReconstructionFramesPerSequence", 30)),
                "held_out_frames": "not stated",
                "steps": experiment.epoch,
                "points": 0,
                "minutes": 0.0,
                "device": "not stated",
                "seed": 0,
                "recipe": "python -m model import-released",
            },
        },
    )


def quaternions_of_angles(angles: NDArray[np.floating]) -> NDArray[np.float32]:
    """Unit quaternions (s, 4) [w, x, y, z] of Euler angles (s, 3): R = Rx Ry Rz, as the release turns row vectors."""
    found = Rotation.from_euler("XYZ", np.asarray(angles, dtype=np.float64)).as_quat(canonical=True)
    return np.asarray(found[:, [3, 0, 1, 2]], dtype=np.float32)


def _specs(path: Path) -> dict[str, Any]:
    try:
        specs: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} holds no specs.json; is it the folder of an experiment?") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from None
    return specs


def _config(specs: dict[str, Any]) -> ReleasedConfig:
    network = specs.get("NetworkSpecs", {})
    if network.get("use_tanh"):
        raise CheckpointError("the network ends in tanh (use_tanh), which cannot be folded; it is not supported")
    try:
        return ReleasedConfig(
            latent_size=specs["CodeLength"],
            dims=network["dims"],
            latent_in=list(network.get("latent_in") or []),
            xyz_in_all=bool(network.get("xyz_in_all")),
        )
    except KeyError as error:
        raise CheckpointError(f"specs.json has no {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise CheckpointError(f"specs.json: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _state_file(folder: Path, name: str, epoch: int | None) -> Path:
    """The file of an epoch; the final one or the latest when none is asked for."""
    found = {int(match[1]): path for path in folder.glob(f"e*_{name}") if (match := _EPOCH.match(path.name))}
    if epoch is not None:
        if epoch in found:
            return found[epoch]
        raise CheckpointError(f"{folder} has no epoch {epoch} of {name}; it has {sorted(found) or 'none'}")
    if (folder / name).is_file():
        return folder / name
    if found:
        return found[max(found)]
    raise CheckpointError(f"{folder} has no {name}")


def _decoder(config: ReleasedConfig, path: Path) -> tuple[ReleasedDecoder, int]:
    try:
        # weights_only: tensors and plain containers, no code; and only here, never in the service
        held = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251
        tensors = {str(key).removeprefix("module."): value for key, value in held["model_state_dict"].items()}
    except Exception as error:  # noqa: BLE001 (the unpickler raises almost anything on a bad file)
        raise CheckpointError(f"{path.name} does not hold plain weights: {str(error).splitlines()[0]}") from None
    if any(key.startswith("bn") for key in tensors):
        raise CheckpointError("the network uses layer normalisation, which cannot be folded; it is not supported")
    decoder = ReleasedDecoder(config)
    state = {}
    for layer, (n_in, n_out) in enumerate(config.shapes):
        for ours, theirs, shape in (("weights", "weight", (n_out, n_in)), ("biases", "bias", (n_out,))):
            tensor = _tensor(tensors, f"lin{layer}.{theirs}")
            if tensor is None or tuple(tensor.shape) != shape:
                what = "is missing" if tensor is None else f"is {tuple(tensor.shape)}, specs.json asks for {shape}"
                raise CheckpointError(f"{path.name}: lin{layer}.{theirs} {what}")
            state[f"{ours}.{layer}"] = tensor.float()
    decoder.load_state_dict(state)
    decoder.requires_grad_(False)
    return decoder, int(held.get("epoch", 0))


def _tensor(tensors: dict[str, Tensor], name: str) -> Tensor | None:
    """A tensor by its name, or multiplied out from its direction and length (weight normalisation)."""
    layer, _, kind = name.rpartition(".")
    for length, direction in (
        (f"{name}_g", f"{name}_v"),
        (f"{layer}.parametrizations.{kind}.original0", f"{layer}.parametrizations.{kind}.original1"),
    ):
        if length in tensors and direction in tensors:
            v = tensors[direction].double()
            whole: Tensor = tensors[length].double() * v / v.norm(dim=1, keepdim=True)
            return whole.float()
    found: Tensor | None = tensors.get(name)
    return found


def _matrix(path: Path, name: str) -> NDArray[np.float64]:
    try:
        found = np.asarray(loadmat(path, variable_names=[name])[name], dtype=np.float64)
    except KeyError:
        raise CheckpointError(f"{path.name} holds no {name}") from None
    except (OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{path.name} cannot be read: {error}") from None
    if not np.isfinite(found).all():
        raise CheckpointError(f"{path.name} holds NaN or infinity")
    return found.reshape(len(found), -1)
