"""What a computing process does before it claims its first job: one small generation, so that all is compiled."""

from __future__ import annotations

import logging
import time
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from model.card import SHIPPED_MODELS
from model.network.checkpoint import load_checkpoint
from model.spec import GenerationSpec
from model.synthesis import synthesize
from worker.settings import WorkerSettings

log = logging.getLogger(__name__)

SPEC = GenerationSpec(model="celegans", seed=1, frames=2, grid=16, formats=["stl", "tiff"])


@lru_cache(maxsize=1)  # once a process
def warm_up() -> float:
    """Make one coarse cell of a shipped model in a folder that is removed; return the seconds it took.

    Raises
    ------
    CytosynthError, OSError
        If the model cannot be read or nothing can be written.
    """
    begun, settings = time.monotonic(), WorkerSettings()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    with TemporaryDirectory() as folder:
        checkpoint = load_checkpoint(SHIPPED_MODELS / SPEC.model)
        synthesize(SPEC.completed(), checkpoint, Path(folder), device=settings.device)
    took_s = time.monotonic() - begun
    log.info("warmed up in %.1f s", took_s)
    return took_s
