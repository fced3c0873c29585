"""Promises of benchmarks.engine: that what it calls dense, minimal, different and extrapolated is just that."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapes
import torch
from PIL import Image

from benchmarks.engine.__main__ import machine
from benchmarks.engine.cells import Case, cases
from benchmarks.engine.files import FRAMES, writing
from benchmarks.engine.job import resident_mib
from benchmarks.engine.measure import comparison, costs_of, doubling
from benchmarks.engine.paths import (
    CHUNK,
    batched_decoder,
    chunks,
    differing_labels,
    differing_triangles,
    evaluate_chunks,
    method_decoder,
    minimal_set,
    ours,
)
from benchmarks.engine.rates import flops, fma_rates, fma_seconds, network, peak_share
from benchmarks.engine.report import PATHS, extrapolated, growth, noise, plot, summary, table
from benchmarks.engine.service import memory_of_job
from benchmarks.engine.tables import fill, tables
from model.domain import Grid
from model.engine.bricks import Bricks
from model.engine.marching_cubes import Surface, extract_surface
from model.engine.runs import bodies
from model.engine.sparse import evaluate_dense, evaluate_sparse
from model.network.autodecoder import AutoDecoder, NetworkConfig
from model.network.sine_kernel import POINTS


@pytest.fixture(scope="module")
def dividing() -> list[Case]:
    return list(cases("celegans", [{"kind": "learned", "index": 5}]))


def test_cells_are_taken_just_before_and_just_after_they_divide(dividing: list[Case]) -> None:
    grid = Grid((64, 64, 64))
    counts = []
    for case in dividing:
        field = evaluate_sparse(case.decoder(), grid, lipschitz=case.lipschitz)
        counts.append(len(bodies(field).sizes()) - 1)
    assert counts == [2, 1]


def test_dense_paths_give_the_distances_of_the_folded_decoder(dividing: list[Case]) -> None:
    points = np.random.default_rng(1).uniform(-1.0, 1.0, (3000, 3)).astype(np.float32)
    expected = dividing[0].decoder()(points)
    for path in (method_decoder, batched_decoder):
        assert np.abs(path(dividing[0])(points) - expected).max() < 2e-5


def test_dense_paths_give_the_distances_of_a_network_that_changes_its_matrices(dividing: list[Case]) -> None:
    config = NetworkConfig(latent_size=5, width=24, depth=3, conditioning_width=16, rank=7, frequency=2.0)
    decoder = AutoDecoder(config, generator=torch.Generator().manual_seed(2)).requires_grad_(False)
    generator = torch.Generator().manual_seed(3)
    for head in (decoder.low_rank.mixture, decoder.low_rank.output):  # so that what the code changes is not small
        head.weight.normal_(0.0, 1.0, generator=generator)
    checkpoint = replace(dividing[0].cell.checkpoint, decoder=decoder)
    cell = replace(dividing[0].cell, checkpoint=checkpoint, latent=np.linspace(-1.0, 1.0, 5, dtype=np.float32))
    case = replace(dividing[0], cell=cell, time=0.3)
    points = np.random.default_rng(1).uniform(-1.0, 1.0, (500, 3)).astype(np.float32)
    expected = case.decoder()(points)
    assert np.ptp(expected) > 0.1
    for path in (method_decoder, batched_decoder):
        assert np.abs(path(case)(points) - expected).max() < 2e-5


def test_chunks_cover_a_grid_once(dividing: list[Case]) -> None:
    grid = Grid((40, 41, 42))
    field = np.full(grid.size, np.nan, dtype=np.float32)
    assert chunks(grid) == 2
    assert chunks(Grid((64, 64, 64))) == 64**3 // CHUNK
    seconds = evaluate_chunks(dividing[0].decoder(), grid, np.array([1, 0]), field)
    assert len(seconds) == 2
    assert np.array_equal(field.reshape(grid.shape), evaluate_dense(dividing[0].decoder(), grid))


@pytest.mark.parametrize("shape", [(24, 24, 24), (9, 31, 20)])
def test_minimal_set_is_every_corner_of_a_crossed_cell(shape: tuple[int, int, int]) -> None:
    cell, grid = shapes.filopodia_cell(0.2), Grid(shape)
    dense = evaluate_dense(cell, grid) < 0
    corners = np.zeros(shape, dtype=bool)
    for i, j, k in np.ndindex(*(n - 1 for n in shape)):
        block = (slice(i, i + 2), slice(j, j + 2), slice(k, k + 2))
        if 0 < dense[block].sum() < 8:
            corners[block] = True
    assert minimal_set(evaluate_sparse(cell, grid, lipschitz=1.0)) == corners.sum() > 0


def test_a_real_frame_equals_the_dense_evaluation(dividing: list[Case]) -> None:
    row = comparison(dividing[0], 64)
    assert (row["labels"], row["triangles"], row["refuted"]) == (0, 0, 0)
    assert 1.0 <= row["adaptive"] <= row["certified"]


def test_a_frame_is_measured_by_every_path(dividing: list[Case]) -> None:
    rows, dense = costs_of(dividing[0], [16, 32], full=True)
    assert [row["side"] for row in rows] == [16, 32]
    assert all(min(row[path] for path in PATHS) > 0 and row["extrapolated"] == [] for row in rows)
    assert np.array_equal(dense, evaluate_dense(dividing[0].decoder(), Grid((32, 32, 32))))
    assert [row["side"] for row in doubling(dividing[0], [16, 32])] == [16, 32]


def test_a_flipped_sample_is_counted(dividing: list[Case]) -> None:
    grid = Grid((64, 64, 64))
    dense = evaluate_dense(dividing[0].decoder(), grid)
    found = ours(dividing[0], grid, Bricks(grid))
    assert differing_labels(dense, found) == 0
    hole = dense.copy()
    hole[tuple(np.argwhere(bodies(dense).volume() == 1)[0])] = 0.5
    assert differing_labels(hole, found) == 1
    assert differing_triangles(extract_surface(hole, grid), found.surface) > 0


def test_triangles_are_compared_bit_by_bit() -> None:
    grid = Grid((16, 16, 16))
    surface = extract_surface(evaluate_dense(shapes.sphere(), grid), grid)
    shuffled = Surface(surface.vertices, surface.faces[::-1].copy())
    assert differing_triangles(surface, shuffled) == 0
    moved = surface.vertices.copy()
    moved[0, 0] = np.nextafter(moved[0, 0], np.float32(2))
    touched = int((surface.faces == 0).any(axis=1).sum())
    assert differing_triangles(surface, Surface(moved, surface.faces)) == 2 * touched
    assert differing_triangles(surface, Surface(surface.vertices, surface.faces[1:])) == 2


@pytest.mark.parametrize("sums", [8, 14, 24])
def test_chain_of_multiply_adds_is_really_run(sums: int) -> None:
    short, found = fma_seconds(2, 10, sums)
    assert found.shape == (2, sums * POINTS // 2)
    assert np.allclose(found, 2.0, atol=2.0**-9)
    assert (fma_seconds(1, 10, sums)[1] == 2.0 - 2.0**-10).all()
    assert min(fma_seconds(1, 4_000_000, sums)[0] for _ in range(3)) > short


def test_the_peak_is_sought_within_the_registers_of_every_processor() -> None:
    """AVX2 has 16 vector registers, of which two hold the operands; with more sums they are spilled to memory."""
    rates = fma_rates(1)
    assert any(8 <= sums <= 14 for sums in rates)
    assert any(14 < sums <= 30 for sums in rates)
    assert all(rate > 0 for rate in rates.values())


def test_a_share_over_one_is_refused() -> None:
    assert peak_share(3.0, 4.0) == 0.75
    for rate in (4.01, float("nan")):
        with pytest.raises(ValueError, match="measured wrong"):
            peak_share(rate, 4.0)


def test_operations_are_counted_by_weights() -> None:
    assert flops([3, 128, 128, 1]) == 2 * (3 * 128 + 128 * 128 + 128)
    kernel = network([3, 16, 1], np.random.default_rng(0))
    assert kernel(np.zeros((5, 3), dtype=np.float32)).shape == (5,)


def test_what_was_not_measured_is_filled_in_by_the_median() -> None:
    assert extrapolated([1.0, 2.0, 9.0], 3) == 12.0
    assert extrapolated([1.0, 2.0, 9.0], 10) == 12.0 + 7 * 2.0
    for seconds, count in (([], 4), ([1.0, 1.0], 1)):
        with pytest.raises(ValueError, match="chunks"):
            extrapolated(seconds, count)
    assert noise([1.0, 1.0, 1.0]) == 0.0
    assert noise([1.0, 2.0, 3.0]) == 0.25


def cost_rows() -> list[dict[str, Any]]:
    return [
        {"model": name, "side": side, "method": 400.0 * n, "batched": 90.0 * n, "kernel": 20.0 * n, "ours": t}
        | {"extrapolated": ["method"] if side > 128 else [], "noise": {"method": 0.02, "ours": 0.05}}
        | {"stages": {"evaluate": 0.9 * t, "mesh": 0.1 * t}, "evaluations": side**2, "triangles": 2 * side**2}
        for name, times in (("a", (0.1, 0.25, 1.0, 4.5)), ("b", (0.1, 0.2, 0.5, 1.5)))
        for side, n, t in zip((64, 128, 256, 512), (1 / 64, 1 / 8, 1, 8), times, strict=True)
    ]


@pytest.fixture
def document() -> dict[str, Any]:
    """What a run hands on, its figures chosen so that the worst of each is known."""
    measured: dict[str, Any] = {
        "costs": cost_rows(),
        "frames": [
            {"side": 256, "adaptive": 1.2, "certified": 2.5, "labels": 0, "triangles": 0},
            {"side": 256, "adaptive": 1.3, "certified": 2.1, "labels": 1, "triangles": 4},
            {"side": 128, "adaptive": 9.0, "certified": 9.0, "labels": 2, "triangles": 0},
        ],
        "sequences": [{"model": name, "side": 256, "seconds_a_frame": 0.8} for name in "ab"],
        "doublings": cost_rows(),
        "kernels": {
            "kernels": {name: {"mpoints_s": 0.9, "fma_peak_share": 0.8} for name in ("first", "second")},
            "published": {"dense_mpoints_s": 0.1},
            "fma_peak_gflop_s": 200.0,
        },
        "jobs": [{"peak_memory_mib": 500, "job": "small"}, {"peak_memory_mib": 900, "job": "large"}],
        "first_byte": [{"model": name, "median_s": s, "seconds": [s]} for name, s in (("a", 1.0), ("b", 1.25))],
    }
    figures = summary(
        measured["costs"], measured["frames"], doublings=measured["doublings"],
        kernels=measured["kernels"], jobs=measured["jobs"], answers=measured["first_byte"],
    )  # fmt: skip
    rest = {name: [{"way": "ours"}] for name in ("agreements", "meshing", "writers")}
    return {
        **figures,
        **measured,
        **rest,
        "machine": {**machine(), "load_average_after": [0.5]},
        "full": False,
        "seconds": 1.0,
    }


def test_summary_takes_the_worst_of_everything(document: dict[str, Any]) -> None:
    assert (document["speedup_256"], document["speedup_256_same_kernel"]) == (400.0, 20.0)
    assert (document["evaluations_over_minimal"], document["evaluations_over_minimal_certified"]) == (1.3, 2.5)
    assert (document["differing_labels"], document["differing_triangles"]) == (3, 4)
    assert document["growth_per_doubling"] == 4.5
    assert (document["peak_memory_mib"], document["peak_memory_job"]) == (900, "large")
    assert document["first_byte_s"] == 1.25
    assert json.loads(json.dumps(document)) == document


def test_the_page_on_performance_names_tables_that_are_made(document: dict[str, Any]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "explanation" / "performance.md").read_text(encoding="utf-8")
    made = tables(document)
    assert page.count("<!-- bench: ") == page.count("<!-- end -->") == len(made)
    filled = fill(page, made)
    assert filled.count("\n|---") >= len(made)
    assert "| 256³ frame, the method's own dense path / ours" in filled


def test_tables_of_a_document_are_replaced_and_nothing_else() -> None:
    place, end = "<!-- bench: ways -->\n", "<!-- end -->\n"
    ways = {"ways": ("Ways", [{"way": "ours"}])}
    filled = fill(f"before\n{place}old\n\nolder\n{end}between\n{place}{end}behind\n", ways)
    block = f"{place}| way  |\n|------|\n| ours |\n{end}"
    assert filled == f"before\n{block}between\n{block}behind\n"
    assert fill(filled, ways) == filled
    with pytest.raises(KeyError):
        fill("<!-- bench: other -->\n<!-- end -->", ways)


def test_growth_needs_a_grid_and_its_double() -> None:
    with pytest.raises(ValueError, match="double"):
        growth([{"model": "a", "side": 128, "ours": 1.0}, {"model": "b", "side": 256, "ours": 1.0}])


def test_table_is_aligned_markdown() -> None:
    lines = table([{"name": "ours", "ms": 1.2345}, {"name": "dense", "ms": 12345.6}]).splitlines()
    assert lines == ["| name  |     ms |", "|-------|-------:|", "| ours  |   1.23 |", "| dense | 12,346 |"]


def test_plot_is_a_picture_of_every_path(tmp_path: Path) -> None:
    plot(cost_rows(), tmp_path / "images" / "cost.png")
    with Image.open(tmp_path / "images" / "cost.png") as picture:
        assert min(picture.size) > 400
        assert len(picture.convert("RGB").getcolors(2**20) or ()) > len(PATHS)


def test_writers_are_measured_for_every_format(dividing: list[Case]) -> None:
    rows = writing(dividing[0], Grid((48, 48, 48)))
    assert [row["format"] for row in rows] == ["stl", "ply", "obj", "tif"]
    assert all(row["seconds"] > 0 and row["library_seconds"] > 0 and row["frames"] == FRAMES for row in rows)
    assert rows[0]["megabytes"] > rows[1]["megabytes"] > rows[3]["megabytes"] > 0


@pytest.mark.slow
def test_memory_is_that_of_the_job_alone() -> None:
    ballast = np.ones(2**29, dtype=np.uint8)  # 512 MiB here must not be counted there
    found = memory_of_job("celegans", grid=32, frames=2)
    assert 0 < found["before_mib"] <= found["peak_memory_mib"] < resident_mib() - 256
    del ballast
