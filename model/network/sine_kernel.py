r"""Evaluation of a sine network at many points: the innermost loop, compiled on first use.

A tile of points passes through all layers while its activations stay in the first-level cache. Products, bias and sine
are computed in one pass, in explicit SIMD vectors, with one fused multiply-add per weight and lane. numba makes the
machine code for the processor at hand; no compiler needs to be installed.

Promises: each point is computed alone, in one order of operations, with every rounding specified. A value depends
neither on the other points of a call, nor on the number of threads, nor on the width of the processor's vectors.
Does not promise: the last bits of another implementation (torch); they differ by about 1e-6 of the values.

References: argument reduction after Cody and Waite 1980 (*Software Manual for the Elementary Functions*); the
polynomial is a least-maximum fit of (sin r − r) / r³ in r² on [−π/2, π/2], absolute error of the sine 5e-9.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from model.engine.jit import compiled

Floats = NDArray[np.float32]

_FEATURES = binding.get_host_cpu_features()
_LANES = 16 if _FEATURES.get("avx512f") else 8  # floats of a vector
_ROWS = 8 if _FEATURES.get("avx512f") or _FEATURES.get("neon") else 4  # outputs at once: rows × 2 accumulators
POINTS = 2 * _LANES  # points in a tile
_SHARE = 1024  # least points for each thread; fewer make a second thread slower than one

_MAGIC = 1.5 * 2.0**23  # adding it rounds a float32 to an integer in the low bits of the mantissa
_PI_HIGH = float(np.float32(math.pi))
_PI_LOW = float(np.float32(math.pi - _PI_HIGH))
_SINE = (-0.16666657, 0.008333017, -0.00019806602, 2.6000243e-06)


class Kernel:
    """A sine network packed for evaluation.

    Parameters
    ----------
    layers
        For each layer a weight (inputs, outputs) of the layer before, a weight (3, outputs) of the point itself or
        None, and a bias (outputs,), all float32. The first layer sees the point alone, its inputs are 3; the last is
        linear and has one output; between them ``sin(h @ weight + x @ point_weight + bias)``.
    """

    def __init__(self, layers: Sequence[tuple[Floats, Floats | None, Floats]]) -> None:
        plan, weights, biases, offset, row = [], [], [], 0, 0
        for number, (weight, point_weight, bias) in enumerate(layers):
            last = number == len(layers) - 1
            kernel = weight if point_weight is None else np.concatenate([weight, point_weight])
            inputs, outputs = kernel.shape
            rows = 1 if last else _ROWS
            blocks = -(-outputs // rows)
            padded = np.zeros((inputs, blocks * rows), dtype=np.float32)
            padded[:, :outputs] = kernel
            # block by block, input by input: the order in which the loops read
            weights.append(padded.reshape(inputs, blocks, rows).transpose(1, 0, 2).reshape(-1))
            biases.append(np.pad(bias.astype(np.float32), (0, blocks * rows - outputs)))
            plan.append((inputs, blocks, offset, row, inputs - 3 if number == 0 or point_weight is not None else -1))
            offset += weights[-1].size
            row += blocks * rows
        if layers[-1][0].shape[1] != 1 or layers[0][0].shape[0] != 3:
            raise ValueError("a kernel goes from 3 coordinates to 1 distance")
        self._plan = np.array(plan, dtype=np.int64)  # (layers, 5): inputs, blocks, first weight, first bias, point row
        self._weights = np.concatenate(weights)
        self._biases = np.concatenate(biases)
        self._depth = int(max(max(p[0] for p in plan), max(p[1] * _ROWS for p in plan)))

    def __call__(self, points: Floats, *, threads: int = 1) -> Floats:
        """Evaluate the network at points (n, 3) float32; (n,) float32.

        Parameters
        ----------
        points
            Columns x, y, z.
        threads
            At most so many; does not change the values.
        """
        points = np.ascontiguousarray(points, dtype=np.float32)
        values = np.empty(len(points), dtype=np.float32)
        threads = min(threads, -(-len(points) // _SHARE))
        tiles = -(-len(points) // POINTS)
        if threads <= 1:
            self._run(points, values, 0, tiles)
            return values
        # more shares than threads, so that none waits long for a slow one
        bounds = np.linspace(0, tiles, min(4 * threads, tiles) + 1).astype(int).tolist()
        jobs = [_pool(os.getpid(), threads).submit(self._run, points, values, *pair) for pair in pairwise(bounds)]
        for job in jobs:
            job.result()
        return values

    def _run(self, points: Floats, values: Floats, first: int, last: int) -> None:
        _evaluate(points, values, first, last, self._plan, self._weights, self._biases, self._depth)


@cache
def _pool(_process: int, threads: int) -> ThreadPoolExecutor:
    """Threads of this process; a forked child does not inherit its parent's and makes its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix="kernel")


def _block(rows: int, *, sine: bool) -> Any:
    """Make the innermost step: ``rows`` outputs of a layer for one tile, as vector instructions."""

    @intrinsic
    def block(
        _typing: Any, weights: Any, weight: Any, biases: Any, bias: Any, source: Any, target: Any, inputs: Any
    ) -> Any:
        signature = types.void(weights, weight, biases, bias, source, target, inputs)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            arrays = dict(zip(("w", "w0", "b", "b0", "s", "t", "n"), arguments, strict=True))
            kinds = dict(zip(("w", "w0", "b", "b0", "s", "t", "n"), signature.args, strict=True))
            data = {k: context.make_array(kinds[k])(context, builder, arrays[k]).data for k in ("w", "b", "s", "t")}
            _emit(builder, data, arrays, rows=rows, sine=sine)
            return context.get_dummy_value()

        return signature, generate

    return block


def _emit(builder: Any, data: dict[str, Any], at: dict[str, Any], *, rows: int, sine: bool) -> None:
    """Write the loop over a layer's inputs: ``rows`` × 2 vectors of sums, kept in registers."""
    word, single = ir.IntType(64), ir.FloatType()
    vector = ir.VectorType(single, _LANES)
    fma = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{_LANES}f32"
    )

    def splat(scalar: Any) -> Any:
        one = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, word(0))
        return builder.shuffle_vector(
            one, ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), _LANES), [0] * _LANES)
        )

    def half(base: Any, row: Any, number: int) -> Any:
        place = builder.add(builder.mul(row, word(POINTS)), word(number * _LANES))
        return builder.bitcast(builder.gep(base, [place]), vector.as_pointer())

    start = [splat(builder.load(builder.gep(data["b"], [builder.add(at["b0"], word(r))]))) for r in range(rows)]
    before = builder.block
    loop = builder.append_basic_block("inputs")
    after = builder.append_basic_block("sums")
    builder.branch(loop)
    builder.position_at_end(loop)
    k = builder.phi(word)
    k.add_incoming(word(0), before)
    sums = []
    for r in range(rows):
        for _ in range(2):
            held = builder.phi(vector)
            held.add_incoming(start[r], before)
            sums.append(held)
    inputs = [builder.load(half(data["s"], k, v), align=4) for v in range(2)]
    first = builder.add(at["w0"], builder.mul(k, word(rows)))
    added = []
    for r in range(rows):
        weight = splat(builder.load(builder.gep(data["w"], [builder.add(first, word(r))])))
        added += [builder.call(fma, [weight, inputs[v], sums[2 * r + v]]) for v in range(2)]
    following = builder.add(k, word(1))
    k.add_incoming(following, loop)
    for held, value in zip(sums, added, strict=True):
        held.add_incoming(value, loop)
    builder.cbranch(builder.icmp_signed("<", following, at["n"]), loop, after)
    builder.position_at_end(after)
    for r in range(rows):
        for v in range(2):
            value = added[2 * r + v]
            builder.store(_sine(builder, fma, value, vector) if sine else value, half(data["t"], word(r), v), align=4)


def _sine(builder: Any, fma: Any, x: Any, vector: Any) -> Any:
    """Sine of a vector: reduce to [−π/2, π/2] with two fused steps, odd polynomial, sign from the quotient's parity."""

    def constant(value: float) -> Any:
        return ir.Constant(vector, [ir.Constant(ir.FloatType(), float(np.float32(value)))] * _LANES)

    integers = ir.VectorType(ir.IntType(32), _LANES)
    shifted = builder.call(fma, [x, constant(1.0 / math.pi), constant(_MAGIC)])
    quotient = builder.fsub(shifted, constant(_MAGIC))
    odd = builder.shl(builder.bitcast(shifted, integers), ir.Constant(integers, [31] * _LANES))
    r = builder.call(fma, [quotient, constant(-_PI_HIGH), x])
    r = builder.call(fma, [quotient, constant(-_PI_LOW), r])
    square = builder.fmul(r, r)
    series = constant(_SINE[-1])
    for coefficient in _SINE[-2::-1]:
        series = builder.call(fma, [series, square, constant(coefficient)])
    cube = builder.fmul(square, r)
    value = builder.call(fma, [series, cube, r])
    return builder.bitcast(builder.xor(builder.bitcast(value, integers), odd), vector)


_sines = _block(_ROWS, sine=True)
_sum = _block(1, sine=False)


@compiled
def _evaluate(
    points: Any, values: Any, first: int, last: int, plan: Any, weights: Any, biases: Any, depth: int
) -> None:
    layers = len(plan)
    scratch = np.empty((2, depth * POINTS), dtype=np.float32)
    coordinates = np.empty(3 * POINTS, dtype=np.float32)
    for tile in range(first, last):
        start = tile * POINTS
        _load(points, start, coordinates)
        source, target = scratch[0], scratch[1]
        for layer in range(layers):
            inputs, blocks, weight, bias, point_row = plan[layer]
            if point_row >= 0:
                source[point_row * POINTS : (point_row + 3) * POINTS] = coordinates
            if layer == layers - 1:
                _sum(weights, weight, biases, bias, source, target, inputs)
                break
            for block in range(blocks):
                _sines(
                    weights,
                    weight + block * inputs * _ROWS,
                    biases,
                    bias + block * _ROWS,
                    source,
                    target[block * _ROWS * POINTS :],
                    inputs,
                )
            source, target = target, source
        for p in range(min(POINTS, len(points) - start)):
            values[start + p] = target[p]


@compiled
def _load(points: Any, start: int, coordinates: Any) -> None:
    """Take a tile's points, axis by axis; beyond the last one it is repeated."""
    for p in range(POINTS):
        q = min(start + p, len(points) - 1)
        for axis in range(3):
            coordinates[axis * POINTS + p] = points[q, axis]
