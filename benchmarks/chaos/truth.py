"""What the jobs ask for, and the bytes they must give: computed here, without the service."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.card import SHIPPED_MODELS, find_model
from model.spec import GenerationSpec

MODEL = "celegans"
DIVIDED = 4  # one request in so many is computed in shards
FORMATS = (["stl"], ["tiff"], ["stl", "ply"], ["obj", "tiff"])


@dataclass(frozen=True)
class Order:
    """A request and the SHA-256 of each file that it must give."""

    body: dict[str, Any]
    files: dict[str, str]


def orders(count: int, *, seed: int) -> list[Order]:
    """Return different small requests with their answers."""
    import torch

    from model.network.checkpoint import load_checkpoint
    from model.synthesis import synthesize

    torch.set_num_threads(1)
    checkpoint = load_checkpoint(find_model(MODEL, [SHIPPED_MODELS]))
    made = []
    for number in range(count):
        body = {
            "model": MODEL, "seed": 1000 * seed + number, "frames": 6 + 8 * (number % 4), "grid": 16 + 4 * (number % 3),
            "formats": FORMATS[number % len(FORMATS)], "latent": {"kind": "learned", "index": number % 5},
        }  # fmt: skip
        if number % DIVIDED == DIVIDED - 1:
            body |= {"frames": 6, "grid": 16, "count": 40, "rotation": "random"}
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            synthesize(GenerationSpec.model_validate(body).completed(), checkpoint, folder)
            files = {
                path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
                for path in folder.rglob("*")
                if path.is_file()
            }
        made.append(Order(body, files))
    return made
