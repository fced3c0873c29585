"""Compilation to machine code by numba: two decorators with the options that the library relies on.

Promises: division by zero gives infinity or NaN, as in numpy. :func:`compiled` does not reorder floating-point
operations, so that a compiled function gives the same bits as the same operations in numpy.
Does not promise: the same last bits on processors of different kinds from :func:`compiled_reordered`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """Compile a function on first use; the machine code is cached and releases Python's global lock."""
    return cast(_Function, numba.njit(cache=True, nogil=True, error_model="numpy")(function))


def compiled_reordered(function: _Function) -> _Function:
    """Compile as :func:`compiled`, and let the compiler reorder and fuse floating-point operations: faster sums."""
    fastmath = {"contract", "nsz", "arcp", "reassoc"}
    return cast(_Function, numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=fastmath)(function))
