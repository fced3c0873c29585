"""A file of measured sequences: what one worker has measured of an evaluation, for another that compares.

Promises: every number comes back as it was, bit for bit; the same measurements give the same bytes. The file holds no
code: it is read without pickle.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.evaluation.comparison import MeasuredSets
from model.evaluation.measures.descriptors import Descriptors
from model.evaluation.measures.protrusions import Protrusions
from model.evaluation.novelty import Outline
from model.evaluation.sequence_measures import SequenceMeasures

SETS = ("generated", "training", "held_out")
ARRAYS = ("minutes", "centroids", "profiles", "radial", "masks")
FACTS, OUTLINE, LENGTHS = "facts", "outline", "lengths"


def write_measured(measured: MeasuredSets, path: Path) -> None:
    """Write measured sets into a NumPy archive: ``facts``, JSON; and the arrays of each sequence."""
    facts: dict[str, Any] = {name: _facts(getattr(measured, name)) for name in SETS}
    facts["searched"] = None if measured.searched is None else [outline.name for outline in measured.searched]
    arrays: dict[str, NDArray[Any]] = {FACTS: np.frombuffer(json.dumps(facts).encode("ascii"), dtype=np.uint8)}
    for name in SETS:
        for number, sequence in enumerate(getattr(measured, name) or []):
            arrays |= {f"{name}/{number}/{array}": getattr(sequence, array) for array in ARRAYS}
            for frame, found in enumerate(sequence.protrusions):
                arrays[f"{name}/{number}/{LENGTHS}/{frame}"] = found.lengths
    for number, outline in enumerate(measured.searched or []):
        arrays[f"{OUTLINE}/{number}"] = outline.samples
    with path.open("xb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def read_measured(path: Path) -> MeasuredSets:
    """Read what :func:`write_measured` wrote."""
    with np.load(path, allow_pickle=False) as held:
        facts = json.loads(held[FACTS].tobytes())
        sets = {name: None if facts[name] is None else list(_sequences(held, name, facts[name])) for name in SETS}
        searched = facts["searched"]
        outlines = (
            None if searched is None else [Outline(name, held[f"{OUTLINE}/{k}"]) for k, name in enumerate(searched)]
        )
    return MeasuredSets(sets["generated"] or [], sets["training"] or [], sets["held_out"], outlines)


def _facts(sequences: list[SequenceMeasures] | None) -> list[dict[str, Any]] | None:
    """Return what is not an array. JSON keeps every digit of a float, and NaN."""
    if sequences is None:
        return None
    return [
        {
            "name": sequence.name,
            "membrane_speed": sequence.membrane_speed,
            "rejected": sequence.rejected,
            "bodies": [[asdict(body) for body in frame] for frame in sequence.bodies],
            "protrusions": [{"number": int(one.number), "thickness": one.thickness} for one in sequence.protrusions],
        }
        for sequence in sequences
    ]


def _sequences(held: Any, name: str, facts: list[dict[str, Any]]) -> Iterator[SequenceMeasures]:
    for number, row in enumerate(facts):
        yield SequenceMeasures(
            name=row["name"],
            bodies=tuple(tuple(Descriptors(**body) for body in frame) for frame in row["bodies"]),
            membrane_speed=row["membrane_speed"],
            protrusions=tuple(
                Protrusions(lengths=held[f"{name}/{number}/{LENGTHS}/{frame}"], **one)
                for frame, one in enumerate(row["protrusions"])
            ),
            rejected=row["rejected"],
            **{array: held[f"{name}/{number}/{array}"] for array in ARRAYS},
        )
