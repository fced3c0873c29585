"""The names that the rest of the project and notebooks may use of the library; a change here is a change for them."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

PUBLIC = {
    "model.spec": [
        "Cost",
        "ExplicitLatent",
        "GenerationSpec",
        "InterpolatedLatent",
        "LearnedLatent",
        "NearbyLatent",
        "SampledLatent",
        "Strict",
        "check_formats",
        "check_times",
        "parts_of",
        "result_digest",
        "whole",
        "with_kind",
    ],
    "model.card": ["ModelCard", "TrainingFacts", "find_model", "find_models", "load_card"],
    "model.formats": ["Format", "describe_finest", "describe_formats", "media_type"],
    "model.domain": ["Grid", "frame_times", "frame_to_time"],
    "model.synthesis": ["Progress", "compute_device", "synthesize"],
    "model.living_cell": ["CellFrame", "LivingCell", "Variation", "draw"],
    "model.network.checkpoint": ["Checkpoint", "load_checkpoint", "save_checkpoint"],
    "model.engine.sparse": [
        "SparseEvaluation",
        "SparseField",
        "cpu_frame_batch",
        "evaluate_dense",
        "evaluate_sequence",
        "evaluate_sparse",
    ],
    "model.engine.marching_cubes": ["Surface", "extract_surface"],
    "model.engine.tracking": ["CellTracker", "LabelledFrame", "Track", "label_volume", "remove_bodies"],
    "model.output.verify": ["verify_result"],
    "model.phantoms": ["Phantom", "make_phantom"],
}


@pytest.mark.parametrize("module", PUBLIC)
def test_a_modules_public_names_are_these_and_each_is_documented(module: str) -> None:
    loaded = importlib.import_module(module)
    defined = {
        name: value
        for name, value in vars(loaded).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module
    }
    assert sorted(defined) == PUBLIC[module]
    assert [name for name, value in defined.items() if not inspect.getdoc(value)] == []


def test_the_library_itself_holds_only_its_version() -> None:
    code = "import sys, model; print(*(name for name in vars(model) if not name.startswith('_')), len(sys.modules))"
    counts = [modules_after("import sys; print(len(sys.modules))"), modules_after(code)]
    assert counts[1] == [str(int(counts[0][0]) + 1)]


def modules_after(code: str) -> list[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.split()
