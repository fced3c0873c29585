"""Strict reader of the weights of a model: exact names, shapes and type, every number finite.

A safetensors file is the length of a JSON header (8 bytes, little endian), the header, and raw tensors that fill the
rest without gaps or overlaps (https://huggingface.co/docs/safetensors). It holds no executable code.

Promises: accepted weights are loaded by :func:`model.network.checkpoint.load_checkpoint`, given a card that agrees.
Does not promise: that the network gives good cells.
"""

from __future__ import annotations

import json
import math
import struct
from typing import Any

from model.errors import UploadError

CONFIG_KEY = "cytosynth.network"
CARD_KEY = "cytosynth.card"  # as model.card has it
DENSITY_KEY = "cytosynth.density"  # as model.network.checkpoint has it
DENSITY_MEMBERS = {"kind", "shrinkage", "components", "parts", "near", "mirrors"}
DENSITIES = ("gaussian", "shrunk", "mixture", "kernel", "composed")
PARTS_MAX = 4  # as model.spec has it
# The bounds below are those of app.services.uploaded_models; a test compares them.
CARD_MAX = 2**15  # characters
TEXTS = {"title": (1, 200), "description": (0, 4000), "cell_type": (0, 200), "licence": (0, 200)}  # characters
SCALES, SCALE_MAX = ("micrometres", "minutes"), 1e9
LIPSCHITZ = (0.1, 1e3)
GRIDS = ("grid_min", "grid_max")
GRID_MIN, GRID_MAX = 8, 2048
TOPOLOGIES = ("single", "division")
HEADER_MAX = 2**20
TENSORS_MAX = 512
FILE_MAX = 128 * 2**20
# Member → least, most, default; as model.network.autodecoder.NetworkConfig has them (a test compares the two).
SIZES = {
    "latent_size": (1, 1024, 64), "width": (8, 1024, 128), "depth": (2, 16, 6), "conditioning_width": (8, 1024, 128),
    "rank": (0, 256, 0),
}  # fmt: skip
FREQUENCIES = ("frequency", "space_frequency", "time_frequency")
ALLOWED = (
    f"a safetensors file of at most {FILE_MAX >> 20} MiB, as `python -m model train` writes it: the network's sizes in "
    f"the metadata under {CONFIG_KEY!r}, and, if anything, what the model is under {CARD_KEY!r}; float32 or "
    "float16 tensors of exactly the names and shapes that follow from them, no NaN and no infinity"
)
LETTERS = {"F32": "f", "F16": "e"}  # type of a tensor → as struct has it
CHUNK = 2**20  # bytes that are looked at together; a multiple of every number's
Shape = tuple[int, ...]


def read_weights(data: memoryview) -> dict[str, Any]:
    """Return what a file of weights holds.

    Returns
    -------
        ``parameters``, ``latent_size``, ``latent_codes`` and ``network``, the sizes; ``card``, what the metadata say of
        the model: topology, scale, title and so on, empty where they say nothing.

    Raises
    ------
    UploadError
        If a name, a shape, a type or a number is not as it must be.
    """
    if len(data) > FILE_MAX:
        raise UploadError(f"the file has {len(data)} bytes")
    header, start = _header(data)
    metadata = header.pop("__metadata__", {})
    config = _config(metadata.get(CONFIG_KEY))
    card = _card(metadata.get(CARD_KEY))
    tensors = _tensors(header, len(data) - start)
    expected = expected_shapes(config)
    rows = tensors.get("latent_codes", (0,))[0]
    _check_density(metadata.get(DENSITY_KEY), rows)
    axes = tensors.get("prior.factor", (0,))[0]
    expected |= {
        "latent_codes": (rows, config["latent_size"]),
        "prior.bandwidth": (1,),
        "prior.factor": (axes, config["latent_size"]),
    }
    for name in sorted(expected.keys() ^ tensors.keys()):
        raise UploadError(f"a tensor is {'missing: ' + name if name in expected else 'not known'}")
    for name, shape in expected.items():
        if tensors[name] != shape or 0 in shape:
            raise UploadError(f"tensor {name} has shape {list(tensors[name])}, not {list(shape)}")
    _check_finite(header, data[start:])
    parameters = sum(math.prod(shape) for name, shape in expected.items() if name.startswith("decoder."))
    return {
        "parameters": parameters, "latent_size": config["latent_size"], "latent_codes": rows, "network": config,
        "card": card,
    }  # fmt: skip


def expected_shapes(config: dict[str, Any]) -> dict[str, Shape]:
    """Return name and shape of every tensor of the decoder that ``config`` describes."""
    latent, width, depth, hidden = (config[name] for name in ("latent_size", "width", "depth", "conditioning_width"))
    rank = config.get("rank", 0)
    shapes: dict[str, Shape] = {"out_weight": (1, width), "out_bias": (1,)}
    if rank:
        inputs = latent + 9  # the time, and four sines and cosines of it
        heads = {"scale": depth * width, "shift": depth * width, "mixture": depth * rank, "output": width + 1}
        linears = {"first": (hidden, inputs), "second": (hidden, hidden + inputs), "third": (hidden, hidden)}
        for name, shape in (linears | {name: (size, hidden) for name, size in heads.items()}).items():
            shapes |= {f"low_rank.{name}.weight": shape, f"low_rank.{name}.bias": shape[:1]}
        for layer in range(depth):
            shapes[f"low_rank.left.{layer}"] = (width, rank)
            shapes[f"low_rank.right.{layer}"] = (rank, width if layer else 3)
    else:
        shapes |= {
            "time_in.weight": (hidden, 1), "time_in.bias": (hidden,), "latent_in.weight": (hidden, latent),
            "mix.weight": (hidden, hidden), "mix.bias": (hidden,), "latent_mix.weight": (hidden, latent),
            "modulation.weight": (2 * depth * width, hidden), "modulation.bias": (2 * depth * width,),
        }  # fmt: skip
    for layer in range(depth):
        shapes[f"weights.{layer}"] = (width, width if layer else 3)
        shapes[f"biases.{layer}"] = (width,)
    return {f"decoder.{name}": shape for name, shape in shapes.items()}


def _header(data: memoryview) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(HEADER_MAX, len(data) - 8):
        raise UploadError(f"the header claims {length} bytes; at most {HEADER_MAX}, and no more than the file, may be")
    header = json.loads(bytes(data[8 : 8 + length]).decode("utf-8"), object_pairs_hook=_members)
    if not isinstance(header, dict) or len(header) > TENSORS_MAX:
        raise UploadError(f"the header must be an object of at most {TENSORS_MAX} tensors")
    return header, 8 + length


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise UploadError("the header has a member twice")
    return members


def _config(text: object) -> dict[str, Any]:
    given = json.loads(text, object_pairs_hook=_members) if isinstance(text, str) else None
    if not isinstance(given, dict) or given.keys() - SIZES.keys() - set(FREQUENCIES):
        raise UploadError(f"the metadata have no {CONFIG_KEY!r} with the sizes of the network")
    config: dict[str, Any] = {name: given.get(name, default) for name, (_, _, default) in SIZES.items()}
    for name, (least, most, _) in SIZES.items():
        if type(config[name]) is not int or not least <= config[name] <= most:
            raise UploadError(f"{name} of the network must be an integer from {least} to {most}")
    if not config["rank"]:
        del config["rank"]  # networks without one say nothing of it
    for name in FREQUENCIES:
        value = given.get(name, 1.0)
        if type(value) not in (int, float) or not 0 < value < 1e6:
            raise UploadError(f"{name} of the network must be a number over 0 and under 1e6")
    return config


def _card(text: object) -> dict[str, Any]:
    """Return what the metadata say of the model, every member checked; nothing where they say nothing."""
    if text is None:
        return {}
    if not isinstance(text, str) or len(text) > CARD_MAX:
        raise UploadError(f"{CARD_KEY!r} in the metadata must be JSON of at most {CARD_MAX} characters")
    card = json.loads(text, object_pairs_hook=_members)
    known = {*TEXTS, *SCALES, *GRIDS, "lipschitz", "topology"}
    if not isinstance(card, dict) or card.keys() - known:
        raise UploadError(f"{CARD_KEY!r} in the metadata must be an object of {', '.join(sorted(known))}")
    for name, value in card.items():
        _check_member(name, value)
    if card.get("grid_min", GRID_MIN) > card.get("grid_max", GRID_MAX):
        raise UploadError("grid_min of the model must not be over grid_max")
    return card


def _check_density(text: object, codes: int) -> None:
    """Check what the metadata say of the density of new codes, if anything."""
    if text is None:
        return
    density = json.loads(text, object_pairs_hook=_members) if isinstance(text, str) else None
    if not isinstance(density, dict) or not {"kind", "shrinkage"} <= density.keys() <= DENSITY_MEMBERS:
        raise UploadError(f"{DENSITY_KEY!r} in the metadata must be an object of {', '.join(sorted(DENSITY_MEMBERS))}")
    share, components = density["shrinkage"], density.get("components", [])
    if density["kind"] not in DENSITIES or type(share) not in (int, float) or not 0 <= share <= 1:
        raise UploadError(f"the density must be one of {', '.join(DENSITIES)}, with a shrinkage from 0 to 1")
    if not isinstance(components, list) or any(type(number) is not int for number in components):
        raise UploadError("the components of the density must be integers")
    parts, near = density.get("parts", 1), density.get("near", 1.0)
    if type(parts) is not int or not 1 <= parts <= PARTS_MAX or type(near) not in (int, float) or not 0 < near <= 1:
        raise UploadError(
            f"parts of the density must be a whole number from 1 to {PARTS_MAX}, near above 0 and up to 1"
        )
    if type(density.get("mirrors", False)) is not bool:
        raise UploadError("mirrors of the density must be true or false")
    if (parts > 1) != (density["kind"] == "composed") or (parts > 1 and components):
        raise UploadError("a composed density has several parts and no components, others have one part")
    used = set(components)
    if used and (len(components) != codes or used != set(range(len(used)))):
        raise UploadError("the components of the density must be numbers from 0, one for each latent code")


def _check_member(name: str, value: object) -> None:
    if name in TEXTS:
        least, most = TEXTS[name]
        fits = isinstance(value, str) and least <= len(value) <= most and _readable(value)
        allowed = f"plain text of {least} to {most} characters"
    elif name == "topology":
        fits, allowed = value in TOPOLOGIES, f"one of {', '.join(TOPOLOGIES)}"
    elif name in GRIDS:
        fits = type(value) is int and GRID_MIN <= value <= GRID_MAX
        allowed = f"an integer from {GRID_MIN} to {GRID_MAX}"
    elif name == "lipschitz":
        fits = type(value) in (int, float) and LIPSCHITZ[0] <= value <= LIPSCHITZ[1]  # type: ignore[operator]
        allowed = f"a number from {LIPSCHITZ[0]:g} to {LIPSCHITZ[1]:g}"
    else:
        fits = type(value) in (int, float) and 0 < value < SCALE_MAX  # type: ignore[operator]
        allowed = f"a number over 0 and under {SCALE_MAX:g}"
    if not fits:
        raise UploadError(f"{name} of the model in the metadata must be {allowed}")


def _readable(text: str) -> bool:
    """Whether a text holds no control characters but line ends and tabs, and nothing that UTF-8 cannot write."""
    return all(letter.isprintable() or letter in "\n\t" for letter in text)


def _tensors(header: dict[str, Any], size: int) -> dict[str, Shape]:
    """Return the shapes of the tensors, which must be float32 or float16 and fill the file exactly."""
    shapes: dict[str, Shape] = {}
    places = []
    for name, entry in header.items():
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if type(dtype) is not str or dtype not in LETTERS:
            raise UploadError("every tensor must be of type F32 or F16")
        if not 1 <= len(shape) <= 2 or any(type(n) is not int or not 0 <= n <= 2**31 for n in shape):
            raise UploadError("every tensor must have one or two axes")
        if (
            type(begin) is not int
            or type(end) is not int
            or end - begin != struct.calcsize(LETTERS[dtype]) * math.prod(shape)
        ):
            raise UploadError("a tensor's bytes are not as many as its shape says")
        shapes[name] = tuple(shape)
        places.append((begin, end))
    reached = 0
    for begin, end in sorted(places):
        if begin != reached:
            raise UploadError("the tensors overlap or leave gaps")
        reached = end
    if reached != size:
        raise UploadError(f"the tensors end after {reached} bytes, the file after {size}")
    return shapes


def _check_finite(header: dict[str, Any], data: memoryview) -> None:
    for entry in header.values():
        begin, end = entry["data_offsets"]
        letter = LETTERS[entry["dtype"]]
        for place in range(begin, end, CHUNK):
            part = data[place : min(place + CHUNK, end)]
            numbers = struct.unpack(f"<{len(part) // struct.calcsize(letter)}{letter}", part)
            if not all(map(math.isfinite, numbers)):
                raise UploadError("a tensor holds NaN or infinity")
