"""What the C library is told about memory that is freed."""

import ctypes
import os
import sys

# Options of the GNU C library's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -3, -4, -8
_LARGE, _KEPT = 8 << 20, 64 << 20  # bytes


def give_large_back() -> None:
    """What is large goes back to the system as soon as it is freed, for processes that decode what anybody sends.

    Otherwise the library learns from the first large image to keep the next ones' memory, once for each thread.
    Whoever has set that library's variables is left alone.
    """
    if not is_set_by_user():
        tell_malloc((M_MMAP_THRESHOLD, _LARGE), (M_TRIM_THRESHOLD, _KEPT))


def is_set_by_user() -> bool:
    """Whether the environment says how memory is to be kept."""
    return any(name.startswith("MALLOC_") for name in os.environ) or "GLIBC_TUNABLES" in os.environ


def tell_malloc(*options: tuple[int, int]) -> None:
    """Sets options of the GNU C library; other libraries have none."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt:
        for option, value in options:
            mallopt(option, value)
