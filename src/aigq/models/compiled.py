"""Loops over arrays as machine code (numba), for what a request cannot wait for numpy to put together."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numba

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """The function as machine code, made at its first call and kept beside its source for later processes.

    An index beyond an array raises IndexError, as it does in Python: published values may be damaged.
    """
    try:
        result: Any = numba.njit(cache=True, boundscheck=True)(function)
    except RuntimeError:  # no folder can be written to: each process makes its own
        result = numba.njit(boundscheck=True)(function)
    return cast(Callable[P, R], result)
