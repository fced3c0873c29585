"""How fast the kernel is, beside what the processor can do at most.

The most is measured, not looked up: independent vectors of sums, each fused multiply-add waiting for none of the
others, on as many threads as the kernel gets. How many vectors reach the peak depends on the processor. Too few leave
units idle, since a result takes about four cycles and there are two units; more than there are registers for are
spilled to memory. AVX2 has 16 registers, AVX-512 and Arm have 32, and two hold factor and term. So several numbers are
tried in every round, and the best rate of any is the peak.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
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
from model.network.sine_kernel import POINTS, Kernel
from model.network.wiesner2022 import ReleasedConfig, ReleasedDecoder

_LANES = POINTS // 2
_SUMS = (8, 10, 12, 14, 20, 24)  # vectors of sums; 14 are the most that sixteen registers hold beside two operands
_WORK = 8_000_000  # multiply-adds of vectors in one run on a thread: some milliseconds, as a run of the kernel
_BATCH = 2**14  # points of one measurement of the kernel: short, so that the best fits between what else runs
_PUBLISHED = ReleasedConfig(
    latent_size=192, dims=[128] * 8
)  # the size of the networks that the method's authors trained


def _multiply_add(sums: int) -> Any:
    """Make the loop ``sum = sum · a + b`` over ``sums`` vectors, which stay in registers where there are enough."""

    @intrinsic
    def chain(_typing: Any, memory: Any, turns: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            _emit(builder, data, arguments[1], sums=sums)
            return context.get_dummy_value()

        return types.void(memory, turns), generate

    return chain


def _emit(builder: Any, data: Any, turns: Any, *, sums: int) -> None:
    word, vector = ir.IntType(64), ir.VectorType(ir.FloatType(), _LANES)
    fma = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{_LANES}f32"
    )

    def at(number: int) -> Any:
        return builder.bitcast(builder.gep(data, [word(number * _LANES)]), vector.as_pointer())

    factor, term = builder.load(at(0), align=4), builder.load(at(1), align=4)
    start = [builder.load(at(2 + n), align=4) for n in range(sums)]
    before, loop, after = builder.block, builder.append_basic_block("turns"), builder.append_basic_block("done")
    builder.branch(loop)
    builder.position_at_end(loop)
    turn, held = builder.phi(word), [builder.phi(vector) for _ in range(sums)]
    added = [builder.call(fma, [value, factor, term]) for value in held]
    following = builder.add(turn, word(1))
    for phi, first, again in zip([turn, *held], [word(0), *start], [following, *added], strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(again, loop)
    builder.cbranch(builder.icmp_signed("<", following, turns), loop, after)
    builder.position_at_end(after)
    for n, value in enumerate(added):
        builder.store(value, at(2 + n), align=4)


@cache
def _turn(sums: int) -> Any:
    """Compile the loop over ``sums`` vectors."""
    chain = _multiply_add(sums)

    @numba.njit(nogil=True)
    def run(memory: Any, turns: int) -> None:
        chain(memory, turns)

    run(np.zeros((2 + sums) * _LANES, dtype=np.float32), 1)
    return run


def fma_seconds(threads: int, turns: int, sums: int = _SUMS[0]) -> tuple[float, NDArray[np.float32]]:
    """Run the chains of multiply-adds on each thread; return the seconds and the sums, which must all be 2."""
    run = _turn(sums)
    memory = [np.full((2 + sums) * _LANES, 1.0, dtype=np.float32) for _ in range(threads)]
    for own in memory:
        own[:_LANES] = 0.5
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _: time.sleep(0.001), range(threads)))  # every thread has started
        seconds = timed(lambda: list(pool.map(lambda own: run(own, turns), memory)))
    return seconds, np.stack([own[2 * _LANES :] for own in memory])


def fma_rates(threads: int) -> dict[int, float]:
    """Operations a second, two for each multiply-add and lane, by the number of vectors of sums."""
    rates = {}
    for sums in _SUMS:
        turns = _WORK // sums
        rates[sums] = 2.0 * _LANES * sums * turns * threads / fma_seconds(threads, turns, sums)[0]
    return rates


def peak_share(rate: float, peak: float) -> float:
    """Share of the peak that a rate is.

    Raises
    ------
    ValueError
        If it is over 1: no kernel is faster than the processor, so the peak was measured wrong.
    """
    if not 0.0 < rate <= peak:
        raise ValueError(
            f"the kernel computed {rate / 1e9:.4g} Gflop/s and the processor at most {peak / 1e9:.4g}: the peak was "
            "measured wrong, most likely because other programs ran meanwhile; run it again on an idle machine"
        )
    return rate / peak


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
    seconds: dict[str, list[float]] = {name: [] for name in kernels}
    peaks: dict[int, float] = {}
    for kernel in kernels.values():
        kernel(points[:4096], threads=threads)
    for _ in range(rounds):
        for sums, rate in fma_rates(threads).items():
            peaks[sums] = max(rate, peaks.get(sums, 0.0))
        for name, kernel in kernels.items():
            seconds[name].append(timed(lambda kernel=kernel: kernel(points, threads=threads)))  # type: ignore[misc]
    peak = max(peaks.values())
    rows = {}
    for name, widths in shapes.items():
        best = min(seconds[name])
        rows[name] = {
            "mpoints_s": _BATCH / best / 1e6,
            "gflop_s": flops(widths) * _BATCH / best / 1e9,
            "fma_peak_share": peak_share(flops(widths) * _BATCH / best, peak),
            "median_mpoints_s": _BATCH / float(np.median(seconds[name])) / 1e6,
        }
    return {
        "threads": threads,
        "fma_peak_gflop_s": peak / 1e9,
        "fma_gflop_s_by_sums": {str(sums): rate / 1e9 for sums, rate in peaks.items()},
        "kernels": rows,
        "published": _published_rate(rounds),
    }


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
