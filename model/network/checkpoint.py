"""Reading and writing trained models: safetensors and a card, nothing else.

Promises: weights are checked against the card's SHA-256 before they are parsed; every tensor has the expected name,
shape and type and is finite; no pickle is ever opened.
Does not promise: that the card tells the truth about quality.

The file says in its metadata which architecture its weights belong to: the project's own, or that of the method's
authors, whose trained models can be imported (:mod:`model.network.wiesner2022_import`). It also says what the model is:
topology, scale, Lipschitz bound, title (:data:`model.card.CARRIED`), so that the weights alone make a model again. A
density of new codes that was chosen by likelihood is described there too; files without it are drawn from as ever.

Format: https://huggingface.co/docs/safetensors (a JSON header and raw little-endian tensors).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from model.card import CARD_KEY, CARRIED, WEIGHTS_FILE, ModelCard, load_card
from model.errors import CheckpointError
from model.network.autodecoder import AutoDecoder, NetworkConfig
from model.network.decoder import Decoder
from model.network.latent import Density, Prior
from model.network.wiesner2022 import ReleasedConfig, ReleasedDecoder

ROTATIONS = "rotations"
HALVED = ("latent_codes", "decoder.low_rank.")  # beginnings of names of tensors that may be kept in float16
PRECISIONS = (torch.float32, torch.float16)
DENSITY_KEY = "cytosynth.density"  # in the metadata, where the density was chosen by likelihood


@dataclass(frozen=True)
class Checkpoint:
    """A trained auto-decoder with its latent table, in memory.

    Attributes
    ----------
    rotations
        (s, 4) unit quaternions [w, x, y, z] in which the training sequences lay, where training found them; a model of
        the method's authors may have them. A learned code turned by its rotation gives its sequence back.
    """

    card: ModelCard
    decoder: Decoder
    prior: Prior
    rotations: NDArray[np.float32] | None = None

    @property
    def latent_codes(self) -> NDArray[np.float32]:
        """Latent table, (s, c) float32: one learned code a training sequence."""
        return self.prior.centres


def save_checkpoint(
    folder: Path,
    *,
    decoder: Decoder,
    prior: Prior,
    card: Mapping[str, Any],
    rotations: NDArray[np.float32] | None = None,
    half: bool = False,
) -> Checkpoint:
    """Write a model's folder: weights first, then the card that names their checksum.

    Parameters
    ----------
    folder
        Made when missing; its name should be the model's id.
    decoder, prior
        What was trained; the prior holds the latent table.
    card
        The card's members, without those that follow from the weights (sha256, parameters, latent_size, latent_codes).
    rotations
        (s, 4) unit quaternions of the training sequences, if training found them.
    half
        Keep the codes and the low-rank conditioning in float16, which are nearly all of the file; the trunk stays in
        float32.

    Returns
    -------
    Checkpoint
        As :func:`load_checkpoint` reads it back.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"decoder.{name}": value.detach().float().cpu() for name, value in decoder.state_dict().items()}
    tensors["latent_codes"] = torch.from_numpy(np.asarray(prior.centres, dtype=np.float32))
    tensors["prior.bandwidth"] = torch.tensor([prior.bandwidth], dtype=torch.float32)
    tensors["prior.factor"] = torch.from_numpy(np.asarray(prior.factor, dtype=np.float32))
    if rotations is not None:
        tensors[ROTATIONS] = torch.from_numpy(np.asarray(rotations, dtype=np.float32))
    if half:
        tensors |= {name: value.half() for name, value in tensors.items() if name.startswith(HALVED)}
    data = save(
        {name: value.contiguous() for name, value in sorted(tensors.items())},
        metadata={decoder.architecture: decoder.config.model_dump_json()},
    )
    described = ModelCard(
        **{
            **card,
            "sha256": hashlib.sha256(data).hexdigest(),
            "parameters": sum(p.numel() for p in decoder.parameters()),
            "latent_size": decoder.config.latent_size,
            "latent_codes": len(prior.centres),
        }
    )
    if prior.density is not None:
        data = _with_metadata(data, DENSITY_KEY, prior.density.model_dump_json())
    data = _with_metadata(data, CARD_KEY, described.model_dump_json(include=set(CARRIED)))
    partial = folder / f"{WEIGHTS_FILE}.partial"
    partial.write_bytes(data)
    partial.replace(folder / WEIGHTS_FILE)
    described.model_copy(update={"sha256": hashlib.sha256(data).hexdigest()}).write(folder)
    return load_checkpoint(folder)


def _with_metadata(data: bytes, key: str, text: str) -> bytes:
    """Add a member to the metadata of a safetensors file.

    The library writes several members in an order that differs from run to run; a file must depend on its content only.
    """
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted({**header["__metadata__"], key: text}.items()))
    head = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode("ascii")
    head += b" " * (-len(head) % 8)  # tensors begin at a multiple of eight
    return len(head).to_bytes(8, "little") + head + data[end:]


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a model's folder.

    Raises
    ------
    CheckpointError
        If a file is missing, the weights differ from the card's checksum, or a tensor is missing, extra, of another
        shape or type, or not finite.
    """
    card = load_card(folder)
    path = folder / WEIGHTS_FILE
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        raise CheckpointError(f"the model folder {folder.name!r} has no {WEIGHTS_FILE}") from None
    if digest != card.sha256:
        raise CheckpointError(
            f"the weights of model {card.id!r} have SHA-256 {digest}, its card says {card.sha256}: the file was altered"
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        decoder = _empty_decoder(metadata)
        density = Density.model_validate_json(metadata[DENSITY_KEY]) if DENSITY_KEY in metadata else None
    except (SafetensorError, ValidationError) as error:
        raise CheckpointError(f"the weights of model {card.id!r} cannot be read: {error}") from None
    return _assemble(card, decoder, tensors, density)


def _empty_decoder(metadata: Mapping[str, str]) -> Decoder:
    """Build the network that a file's metadata describes, its weights still to come."""
    if ReleasedDecoder.architecture in metadata:
        return ReleasedDecoder(ReleasedConfig.model_validate_json(metadata[ReleasedDecoder.architecture]))
    return AutoDecoder(NetworkConfig.model_validate_json(metadata.get(AutoDecoder.architecture, "{")))


def _assemble(card: ModelCard, decoder: Decoder, tensors: dict[str, Tensor], density: Density | None) -> Checkpoint:
    expected = {f"decoder.{name}": tuple(value.shape) for name, value in decoder.state_dict().items()}
    axes = tensors["prior.factor"].shape[0] if "prior.factor" in tensors and tensors["prior.factor"].ndim == 2 else 1
    expected["latent_codes"] = (card.latent_codes, decoder.config.latent_size)
    expected["prior.bandwidth"] = (1,)
    expected["prior.factor"] = (axes, decoder.config.latent_size)
    if ROTATIONS in tensors:
        expected[ROTATIONS] = (card.latent_codes, 4)
    for name in sorted(expected.keys() ^ tensors.keys()):
        raise CheckpointError(f"model {card.id!r}: tensor {name!r} is {'missing' if name in expected else 'not known'}")
    for name, shape in expected.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape or tensor.dtype not in PRECISIONS:
            raise CheckpointError(
                f"model {card.id!r}: tensor {name!r} is {tuple(tensor.shape)} {tensor.dtype}, not {shape} float32"
            )
        tensors[name] = tensor.float()
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"model {card.id!r}: tensor {name!r} holds NaN or infinity")
    decoder.load_state_dict({name: tensors[f"decoder.{name}"] for name in decoder.state_dict()})
    decoder.requires_grad_(False)
    if density is not None and not density.fits(card.latent_codes):
        raise CheckpointError(f"model {card.id!r}: the components of the density are not those of its codes")
    prior = Prior(
        tensors["latent_codes"].numpy(), tensors["prior.factor"].numpy(), float(tensors["prior.bandwidth"][0]), density
    )
    rotations = tensors[ROTATIONS].numpy() if ROTATIONS in tensors else None
    return Checkpoint(card, decoder, prior, rotations)
