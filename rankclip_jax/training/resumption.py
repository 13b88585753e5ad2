"""Where a run goes on, or begins, and with which state."""

import dataclasses
import functools
from pathlib import Path

from ml_collections import ConfigDict

from rankclip_jax.checkpoints import workdir as workdirs
from rankclip_jax.checkpoints.manager import choose_whole, read_state
from rankclip_jax.cli.console import say
from rankclip_jax.distributed.processes import is_primary_process
from rankclip_jax.interop import loading
from rankclip_jax.settings import resolution as settings
from rankclip_jax.training import schedule
from rankclip_jax.training.experiment import Experiment
from rankclip_jax.training.state import TrainState, create, describe


@dataclasses.dataclass(frozen=True)
class Start:
    """The step to go on from, 0 for a new run, whether it is saved, and names of checkpoints that it cannot use."""

    step: int = 0
    saved: bool = False
    aside: tuple[str, ...] = ()


def choose_start(experiment: Experiment, workdir: Path, stored: ConfigDict | None, examples: int) -> Start:
    """Where the run goes on: from its newest whole checkpoint, or where it is to be longer, one that can be."""
    if stored is None:
        return Start()
    before, now = settings.total_steps(stored, examples), experiment.total_steps
    assert now is not None
    if before == now:
        return newest(workdir)
    lengthen = functools.partial(schedule.step_to_lengthen_from, experiment.config.optimizer, before, now)
    step, broken = choose_whole(workdir, lengthen)
    later = {str(later) for later in workdirs.saved_steps(workdir) if later > step}
    if is_primary_process():
        say(f"note: to become {now} steps long the run goes back to step {step}, before its rate fell")
    return Start(step, saved=True, aside=tuple(sorted(later.union(broken))))


def newest(workdir: Path) -> Start:
    """The newest whole checkpoint that the run has saved, or its very start."""
    if not workdirs.saved_steps(workdir) and not workdirs.misnamed(workdir):
        return Start()
    step, broken = choose_whole(workdir)
    return Start(step, saved=True, aside=tuple(broken))


def restore_or_initialise(experiment: Experiment, workdir: Path, start: Start) -> TrainState:
    """The checkpoint to go on from, or else the weights to start from, or else a draw."""
    if not start.saved:
        return create(experiment, loading.weights_to_start_from(experiment.config, experiment.model))
    return read_state(workdir, describe(experiment), start.step)
