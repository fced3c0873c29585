"""Compare the plausibility check with the dense evaluation of the same cells.

``python -m benchmarks.gate [--draws 80]``. The check skips grid blocks by the Lipschitz bound in a model's card, which
was measured on learned codes. A new code may have steeper distances, so that a block with a membrane in it may be
skipped. Every code here is drawn as a spec with a temperature draws it and is checked three times: with the card's
bound, as the check does; with the bound measured for this code (``LivingCell.lipschitz``); from every sample of the
check's grid. The last one skips nothing and is the truth. Prints a table and writes ``out/bench/gate.json``. Nothing is
asserted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engine.report import table
from model.card import SHIPPED_MODELS
from model.domain import frame_times
from model.engine.runs import bodies
from model.engine.sparse import SparseField, evaluate_dense
from model.engine.tracking import FRAGMENT
from model.living_cell import LivingCell
from model.network.checkpoint import Checkpoint, load_checkpoint
from model.network.composition import bind
from model.network.latent import Floats, balanced_centre
from model.network.plausibility import GATE_FRAMES, GATE_GRID, bodies_over_time, is_plausible
from model.spec import GenerationSpec

MODELS = ("celegans", "a549")
TEMPERATURES = (0.5, 1.0, 1.5, 2.0)
Life = tuple[list[int], list[float]]


def main() -> None:
    """Check draws of both shipped models and print what the card's bound misses."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--draws", type=int, default=80, help="codes of each model at each temperature")
    parser.add_argument("--out", type=Path, default=Path("out/bench/gate.json"))
    arguments = parser.parse_args()
    rows = []
    for name in MODELS:
        checkpoint = load_checkpoint(SHIPPED_MODELS / name)
        for temperature in TEMPERATURES:
            checked = [check_code(checkpoint, code) for code in codes(checkpoint, temperature, draws=arguments.draws)]
            rows.append({"model": name, "temperature": temperature, **compared(checked)})
            print(json.dumps(rows[-1]), flush=True)
    print(table(rows))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def codes(checkpoint: Checkpoint, temperature: float, *, draws: int) -> Iterator[Floats]:
    """Yield the first draws of the seeds 0, 1 … as :func:`model.living_cell.draw` makes them."""
    for seed in range(draws):
        spec = GenerationSpec(model=checkpoint.card.id, seed=seed)
        around = balanced_centre(spec, 0, len(checkpoint.latent_codes))
        rng = np.random.default_rng([seed, 0])
        yield checkpoint.prior.sample(rng, temperature=temperature, around=around)


def check_code(checkpoint: Checkpoint, code: Floats) -> dict[str, Any]:
    """Check one code three times.

    Returns
    -------
    dict
        ``card``, ``measured`` and ``dense``: whether the life is plausible, and under ``_life`` of each its bodies and
        volumes; ``slope``: the bound measured for this code over the one in the card.
    """
    bound = LivingCell(checkpoint, code, [1.0, 0.0, 0.0, 0.0]).lipschitz()
    exact = replace(checkpoint, card=checkpoint.card.model_copy(update={"lipschitz": bound}))
    lives = {
        "card": _life(*bodies_over_time(checkpoint, code)),
        "measured": _life(*bodies_over_time(exact, code)),
        "dense": dense_life(checkpoint, code),
    }
    found = {
        name: is_plausible(counts, np.array(volumes), checkpoint.card.topology)
        for name, (counts, volumes) in lives.items()
    }
    slope = bound / checkpoint.card.lipschitz
    return found | {f"{name}_life": life for name, life in lives.items()} | {"slope": slope}


def dense_life(checkpoint: Checkpoint, code: Floats) -> Life:
    """Count bodies and inside samples of a life from every sample of the check's grid."""
    counts, volumes = [], []
    for time in frame_times(GATE_FRAMES).tolist():
        field = evaluate_dense(bind(checkpoint.decoder, code, time), GATE_GRID)
        if not (field < 0).any() or (field < 0).all():
            return [0], [0.0]
        sizes = bodies(SparseField.of(field, GATE_GRID)).sizes()[1:]
        counts.append(int((sizes >= FRAGMENT * sizes.sum()).sum()))
        volumes.append(float(sizes.sum()))
    return counts, volumes


def compared(checked: list[dict[str, Any]]) -> dict[str, Any]:
    """Count where the card's bound, and the measured one, give another result or another life than every sample."""
    return {
        "draws": len(checked),
        "slope_over_card": round(max(row["slope"] for row in checked), 3),
        "steeper_than_card": sum(row["slope"] > 1.0 for row in checked),
        "refused": sum(not row["dense"] for row in checked),
        "card_passes_wrongly": sum(row["card"] and not row["dense"] for row in checked),
        "card_refuses_wrongly": sum(row["dense"] and not row["card"] for row in checked),
        "card_other_counts": sum(row["card_life"][0] != row["dense_life"][0] for row in checked),
        "card_other_samples": sum(row["card_life"] != row["dense_life"] for row in checked),
        "measured_other_samples": sum(row["measured_life"] != row["dense_life"] for row in checked),
    }


def _life(counts: list[int], volumes: np.ndarray[Any, np.dtype[np.float64]]) -> Life:
    return counts, volumes.tolist()


if __name__ == "__main__":
    main()
