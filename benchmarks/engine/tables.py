"""What was measured, as tables: for the terminal, and for the document that carries them.

The document marks a table's place with ``<!-- bench: name -->`` before it and ``<!-- end -->`` behind it, so that a new
run replaces all figures at once and none is copied by hand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.engine.report import Row, table

_PLACE = re.compile(r"<!-- bench: (\w+) -->\n.*?<!-- end -->", flags=re.DOTALL)
_FLOORS = (  # figure, what it is, the least or most that was asked for
    ("speedup_256", "256³ frame, the method's own dense path / ours", "≥ 400"),
    ("speedup_256_batched", "the same, a dense path that folds code and time once a chunk / ours", ""),
    ("speedup_256_same_kernel", "the same, dense with our kernel / ours", ""),
    ("evaluations_over_minimal", "evaluations / minimal set at 256³, default", "≤ 1.35"),
    ("evaluations_over_minimal_certified", "the same, certified", "≤ 3"),
    ("samples_compared", "samples compared with the dense evaluation by the same kernel", ""),
    ("differing_labels", "labels that differ", "0"),
    ("differing_triangles", "triangles that differ", "0"),
    ("growth_per_doubling", "cost growth per doubling of the grid, 128 → 512", "≤ 4.5"),
    ("kernel_mpoints_s", "kernel, 8 × 128 network, million points a second", "≥ 0.7"),
    ("kernel_mpoints_s_shipped", "kernel, the shipped network", ""),
    ("fma_peak_share", "share of the measured FMA peak, 8 × 128", "≥ 0.7"),
    ("peak_memory_mib", "peak memory, MiB", "< 3072"),
    ("first_byte_s", "POST to first byte, 64³ × 10, warm service, seconds", "< 1.5"),
)


def tables(document: Row) -> dict[str, tuple[str, Sequence[Row]]]:
    """Arrange a run's document as tables: a title and rows by name."""
    return {
        "machine": ("Machine", [_machine(document)]),
        "summary": ("Figures", _summary(document)),
        "costs": ("Seconds a frame", [_cost(row) for row in document["costs"]]),
        "stages": ("Stages of ours, ms a frame", [_stages(row) for row in document["costs"]]),
        "doublings": ("Growth, grids in turns", document["doublings"]),
        "sequences": ("Seconds a frame within a sequence", document["sequences"]),
        "frames": ("Beside dense evaluation by the same kernel", document["frames"]),
        "agreements": ("The two ways beside one another", document["agreements"]),
        "kernels": ("Kernels", [{"network": name, **row} for name, row in document["kernels"]["kernels"].items()]),
        "published": ("A network of the published size, dense and by our kernel", [document["kernels"]["published"]]),
        "meshing": ("Meshing and labels at 256", document["meshing"]),
        "writers": ("Writers at 256", document["writers"]),
        "jobs": ("Jobs", document["jobs"]),
        "answers": ("POST to first byte", [_answer(row) for row in document["first_byte"]]),
    }


def fill(text: str, filled: Mapping[str, tuple[str, Sequence[Row]]]) -> str:
    """Put tables in their places in a document.

    Raises
    ------
    KeyError
        If the document names a table that there is not.
    """
    return _PLACE.sub(lambda found: f"<!-- bench: {found[1]} -->\n{table(filled[found[1]][1])}\n<!-- end -->", text)


def _machine(document: Row) -> dict[str, Any]:
    machine = document["machine"]
    versions = ", ".join(f"{name} {value}" for name, value in machine["versions"].items())
    loads = (machine["load_average"][0], machine["load_average_after"][0])
    return {
        "processor": f"{machine['cpu']}, {machine['cores']} cores",
        "threads": machine["threads"],
        "load average before, after": f"{loads[0]}, {loads[1]}",
        "software": f"Python {machine['python']}, {versions}",
        "run": f"`make bench{'-full' if document['full'] else ''}`, {document['seconds']:.0f} s",
    }


def _summary(document: Row) -> list[dict[str, Any]]:
    rows = [{"figure": what, "here": _plain(document[name]), "asked for": asked} for name, what, asked in _FLOORS]
    for row in rows:
        if row["figure"] == "peak memory, MiB":
            row["figure"] = f"peak memory of {document['peak_memory_job']}, MiB"
            row["asked for"] = "< 3072 for 512^3 x 30"
    return rows


def _plain(value: float) -> str:
    return f"{value:,}"


def _cost(row: Row) -> dict[str, Any]:
    return {
        "model": row["model"],
        "grid": f"{row['side']}³",
        "method": row["method"],
        "batched": row["batched"],
        "our kernel": row["kernel"],
        "ours": row["ours"],
        "method / ours": row["method"] / row["ours"],
        "our kernel / ours": row["kernel"] / row["ours"],
        "noise": f"± {100 * row['noise']['method']:.0f} %, ± {100 * row['noise']['ours']:.0f} %",
        "extrapolated": ", ".join(row["extrapolated"]).replace("kernel", "our kernel") or "nothing",
    }


def _stages(row: Row) -> dict[str, Any]:
    return {
        "model": row["model"],
        "grid": f"{row['side']}³",
        **{name: 1e3 * value for name, value in row["stages"].items()},
        "evaluations": row["evaluations"],
        "triangles": row["triangles"],
    }


def _answer(row: Row) -> dict[str, Any]:
    return {
        "model": row["model"],
        "median, s": row["median_s"],
        "each, s": ", ".join(f"{second:.2f}" for second in row["seconds"]),
    }
