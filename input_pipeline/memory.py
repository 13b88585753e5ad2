"""Options of the C library's malloc about freed memory."""

import ctypes
import os
import sys

# Options of the GNU C library's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -3, -4, -8
_LARGE, _KEPT = 8 << 20, 64 << 20  # bytes


def give_large_back() -> None:
    """Makes malloc return large blocks to the system when they are freed, for processes that decode any images.

    Otherwise malloc raises its threshold after the first large image and keeps later blocks, once per thread. Does
    nothing if the user has set malloc's variables.
    """
    if not is_set_by_user():
        tell_malloc((M_MMAP_THRESHOLD, _LARGE), (M_TRIM_THRESHOLD, _KEPT))


def is_set_by_user() -> bool:
    """Whether the environment sets malloc options."""
    return any(name.startswith("MALLOC_") for name in os.environ) or "GLIBC_TUNABLES" in os.environ


def tell_malloc(*options: tuple[int, int]) -> None:
    """Sets malloc options of the GNU C library; does nothing with other C libraries."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt:
        for option, value in options:
            mallopt(option, value)
