"""Compilation to machine code by numba: one decorator with the options that the engine relies on.

Promises: division by zero gives infinity or NaN, as in numpy; floating-point operations are not reordered, so that a
compiled function gives the same bits as the same operations in numpy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """Compile a function on first use; the machine code is cached and releases Python's global lock."""
    return cast(_Function, numba.njit(cache=True, nogil=True, error_model="numpy")(function))
