"""How fast an accelerator makes all frames of a cell: ``python benchmarks/gpu.py --frames 30 --grid 256``.

Decoders are folded, everything runs once to warm up, then several times between synchronisations; the median counts.
Beside it stands a floor: the same evaluations as bare matrix products, at the rate that this device is measured to
reach in float32, and the fewest that any method needs. Prints a table and writes ``out/bench/gpu.json``.

Without a CUDA device it says so and ends well; ``--device cpu`` runs it on the processor, for small grids.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from model import living_cell
from model.card import SHIPPED_MODELS
from model.domain import Grid, frame_times
from model.engine.gpu_marching_cubes import Frame
from model.engine.gpu_sparse import evaluate_frames, gpu_frame_batch
from model.network.autodecoder import FoldedDecoder
from model.network.checkpoint import load_checkpoint
from model.network.stacked_decoders import StackedDecoders
from model.spec import GenerationSpec

SUMMARY = Path("out/bench/gpu.json")
RUNS = 7
TILE = (32, 2048)  # products and points of the shape that the engine uses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--grid", type=int, default=256, help="samples along each side")
    parser.add_argument("--model", default="celegans", dest="name", choices=sorted(p.name for p in model_folders()))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("no CUDA device on this machine: nothing was measured")
        return
    result = measure(arguments.name, arguments.grid, arguments.frames, arguments.seed, device)
    width = max(map(len, result))
    for key, value in result.items():
        print(f"{key:{width}}  {value:,.4g}" if isinstance(value, float) else f"{key:{width}}  {value}")
    SUMMARY.parent.mkdir(parents=True, exist_ok=True)
    SUMMARY.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def model_folders() -> list[Path]:
    return [path for path in SHIPPED_MODELS.iterdir() if (path / "card.json").is_file()]


def measure(name: str, side: int, count: int, seed: int, device: torch.device) -> dict[str, float | int | str]:
    spec = GenerationSpec.model_validate({"model": name, "seed": seed, "rotation": "random"}).completed()
    cell = living_cell.draw(spec, load_checkpoint(SHIPPED_MODELS / name), 0)
    grid, lipschitz = Grid((side, side, side)), cell.lipschitz()
    began = time.perf_counter()
    folded = [cell.at(float(moment)) for moment in frame_times(count)]
    folding = time.perf_counter() - began
    sdf = StackedDecoders(folded, device)

    def whole() -> list[Frame]:
        return list(evaluate_frames(sdf, grid, frames=count, lipschitz=lipschitz, device=device))

    frames = whole()
    seconds = timed(whole, device)
    evaluations, least = sum(f.evaluations for f in frames), sum(f.least for f in frames)
    alone = timed(lambda: evaluate_points(sdf, evaluations, count, device), device)
    rate = product_rate(folded[0], device)
    work = evaluations * operations(folded[0])
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "model": name,
        "grid": side,
        "frames": count,
        "frames_at_once": min(count, gpu_frame_batch(grid, lipschitz=lipschitz, device=device)),
        "seconds": seconds,
        "seconds_decoders_alone": alone,
        "seconds_floor_these_evaluations": work / rate,
        "seconds_floor_minimal_set": work / rate * least / evaluations,
        "over_floor": seconds / (work / rate),
        "seconds_folding_on_the_host": folding,
        "evaluations": evaluations,
        "evaluations_over_minimal": evaluations / least,
        "mpoints_s": evaluations / alone / 1e6,
        "tflops_of_products": rate / 1e12,
        "vertices": sum(len(f.surface.vertices) for f in frames),
        "triangles": sum(len(f.surface.faces) for f in frames),
        "device_memory_mib": torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else 0.0,
    }


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Median seconds, the device idle before and after."""
    seconds = []
    for _ in range(RUNS if device.type == "cuda" else 1):
        synchronise(device)
        began = time.perf_counter()
        work()
        synchronise(device)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.inference_mode()
def evaluate_points(sdf: StackedDecoders, points: int, frames: int, device: torch.device) -> None:
    """Evaluate as many points, all at once: what the decoders alone cost."""
    each = -(-points // frames)
    sdf(torch.zeros(each * frames, 3, device=device), torch.arange(frames, device=device).repeat_interleave(each))


@torch.inference_mode()
def product_rate(decoder: FoldedDecoder, device: torch.device) -> float:
    """Floating point operations a second of batched products of the hidden layers' shape, in float32."""
    inputs, outputs = decoder.layers[1].weight.shape
    tiles, points = TILE if device.type == "cuda" else (1, TILE[1])
    left, right = torch.ones(tiles, points, inputs, device=device), torch.ones(tiles, inputs, outputs, device=device)
    out, repeats = torch.empty(tiles, points, outputs, device=device), 50

    def products() -> None:
        for _ in range(repeats):
            torch.bmm(left, right, out=out)

    products()
    return 2.0 * repeats * tiles * points * inputs * outputs / timed(products, device)


def operations(decoder: FoldedDecoder) -> float:
    """Floating point operations of one evaluation, sines not counted."""
    return sum(2.0 * layer.weight.numel() for layer in decoder.layers)


if __name__ == "__main__":
    main()
