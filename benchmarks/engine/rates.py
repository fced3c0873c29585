"""How fast the kernel is, beside what the processor can do at most.

The most is measured, not looked up: twenty independent vectors of sums, each fused multiply-add waiting for none of the
others, on as many threads as the kernel gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from benchmarks.engine.paths import CHUNK, timed
from model.kernel import POINTS, Kernel
from model.released import ReleasedConfig, ReleasedDecoder

_LANES = POINTS // 2
_SUMS = 20
_TURNS = 2_000_000
_BATCH = 2**14  # points of one measurement of the kernel: short, so that the best fits between what else runs
_PUBLISHED = ReleasedConfig(
    latent_size=192, dims=[128] * 8
)  # the size of the networks that the method's authors trained


@intrinsic
def _multiply_add(_typing: Any, memory: Any, turns: Any) -> Any:
    """Turn by turn ``sum = sum · a + b`` in twenty vectors, which stay in registers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word, vector = ir.IntType(64), ir.VectorType(ir.FloatType(), _LANES)
        fma = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{_LANES}f32"
        )
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data

        def at(number: int) -> Any:
            return builder.bitcast(builder.gep(data, [word(number * _LANES)]), vector.as_pointer())

        factor, term = builder.load(at(0), align=4), builder.load(at(1), align=4)
        start = [builder.load(at(2 + n), align=4) for n in range(_SUMS)]
        before, loop, after = builder.block, builder.append_basic_block("turns"), builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        turn, sums = builder.phi(word), [builder.phi(vector) for _ in range(_SUMS)]
        added = [builder.call(fma, [held, factor, term]) for held in sums]
        following = builder.add(turn, word(1))
        for phi, first, again in zip([turn, *sums], [word(0), *start], [following, *added], strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(again, loop)
        builder.cbranch(builder.icmp_signed("<", following, arguments[1]), loop, after)
        builder.position_at_end(after)
        for n, value in enumerate(added):
            builder.store(value, at(2 + n), align=4)
        return context.get_dummy_value()

    return types.void(memory, turns), generate


@numba.njit(nogil=True)
def _turn(memory: Any, turns: int) -> None:
    _multiply_add(memory, turns)  # type: ignore[call-arg]


def fma_seconds(threads: int, turns: int = _TURNS) -> tuple[float, NDArray[np.float32]]:
    """Run the chain of multiply-adds on each thread; return the seconds and the sums, which must all be 2."""
    memory = [np.full((2 + _SUMS) * _LANES, 1.0, dtype=np.float32) for _ in range(threads)]
    for own in memory:
        own[:_LANES] = 0.5
    _turn(memory[0].copy(), 1)  # compile
    with ThreadPoolExecutor(threads) as pool:
        seconds = timed(lambda: list(pool.map(lambda own: _turn(own, turns), memory)))
    return seconds, np.stack([own[2 * _LANES :] for own in memory])


def network(widths: Sequence[int], rng: np.random.Generator) -> Kernel:
    """Make a kernel of a plain sine network with random weights; ``widths`` begins with 3 and ends with 1."""
    layers: list[tuple[NDArray[np.float32], None, NDArray[np.float32]]] = []
    for inputs, outputs in pairwise(widths):
        bound = np.sqrt(6.0 / inputs)
        layers.append(
            (
                rng.uniform(-bound, bound, (inputs, outputs)).astype(np.float32),
                None,
                rng.uniform(-1.0, 1.0, outputs).astype(np.float32),
            )
        )
    return Kernel(layers)


def flops(widths: Sequence[int]) -> int:
    """Operations a point in the products alone, two for each weight; sines are not counted."""
    return 2 * sum(a * b for a, b in pairwise(widths))


def kernel_rates(shipped: tuple[int, int], *, threads: int, rounds: int) -> dict[str, Any]:
    """Measure peak and kernels in turns; the best of each, because whatever else runs can only slow them down.

    ``shipped`` is the depth and width of the shipped networks.
    """
    rng = np.random.default_rng(0)
    depth, width = shipped
    shapes = {"8 x 128": [3, *[128] * 8, 1], f"{depth} x {width}, shipped": [3, *[width] * depth, 1]}
    kernels = {name: network(widths, rng) for name, widths in shapes.items()}
    points = rng.uniform(-1.0, 1.0, (_BATCH, 3)).astype(np.float32)
    seconds: dict[str, list[float]] = {name: [] for name in ("fma", *kernels)}
    for kernel in kernels.values():
        kernel(points[:4096], threads=threads)
    for _ in range(rounds):
        seconds["fma"].append(fma_seconds(threads)[0])
        for name, kernel in kernels.items():
            seconds[name].append(timed(lambda kernel=kernel: kernel(points, threads=threads)))  # type: ignore[misc]
    peak = 2.0 * _LANES * _SUMS * _TURNS * threads / min(seconds["fma"])
    rows = {}
    for name, widths in shapes.items():
        best = min(seconds[name])
        rows[name] = {
            "mpoints_s": _BATCH / best / 1e6,
            "gflop_s": flops(widths) * _BATCH / best / 1e9,
            "fma_peak_share": flops(widths) * _BATCH / best / peak,
            "median_mpoints_s": _BATCH / float(np.median(seconds[name])) / 1e6,
        }
    return {"threads": threads, "fma_peak_gflop_s": peak / 1e9, "kernels": rows, "published": _published_rate(rounds)}


def _published_rate(rounds: int) -> dict[str, float]:
    """Mpoints/s of a network as large as the authors', dense in torch, every input concatenated for every point."""
    decoder = ReleasedDecoder(_PUBLISHED)
    generator = torch.Generator().manual_seed(0)
    for weight in decoder.weights:
        weight.data.uniform_(-0.02, 0.02, generator=generator)
    points = torch.rand((1, CHUNK, 3), generator=generator) * 2.0 - 1.0
    latent, moment = torch.rand((1, _PUBLISHED.latent_size), generator=generator), torch.zeros(1)
    folded = decoder.fold(latent[0], 0.0)
    flat = np.ascontiguousarray(points[0].numpy())
    folded(flat[:4096])
    dense, ours = [], []
    with torch.no_grad():
        for _ in range(max(3, rounds // 15)):
            dense.append(timed(lambda: decoder(points, moment, latent)))
            ours.append(timed(lambda: folded(flat)))
    return {"dense_mpoints_s": CHUNK / min(dense) / 1e6, "kernel_mpoints_s": CHUNK / min(ours) / 1e6}
