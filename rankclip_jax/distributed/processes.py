"""Small exchanges between the processes of a run, outside the training step."""

import jax
import numpy as np
from jax.experimental import multihost_utils


def is_primary_process() -> bool:
    """Whether this is process 0, which prints and writes for all."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Blocks until every process calls this; ``what`` names the barrier in errors."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def sum_across_processes(counts: list[int]) -> list[int]:
    """Returns the sum of each count over all processes, the same on every process."""
    if jax.process_count() == 1:
        return counts
    return multihost_utils.process_allgather(np.asarray(counts)).sum(axis=0).tolist()


def max_across_processes(number: int) -> int:
    """Returns the maximum of a number over all processes, the same on every process."""
    return number if jax.process_count() == 1 else int(multihost_utils.process_allgather(np.int32(number)).max())
