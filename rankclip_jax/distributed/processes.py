"""What the processes of a run tell each other beside their steps."""

import jax
import numpy as np
from jax.experimental import multihost_utils


def is_primary_process() -> bool:
    """Whether this process is the one that prints, and writes what one process should."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Returns when every process has come here; ``what`` names the place in errors."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def sum_across_processes(counts: list[int]) -> list[int]:
    """The sum of each count over all processes, the same on each of them."""
    if jax.process_count() == 1:
        return counts
    return multihost_utils.process_allgather(np.asarray(counts)).sum(axis=0).tolist()


def max_across_processes(number: int) -> int:
    """The largest of the processes' numbers, the same on each of them."""
    return number if jax.process_count() == 1 else int(multihost_utils.process_allgather(np.int32(number)).max())
