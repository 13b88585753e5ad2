"""Resumption: the decision whether a run starts or resumes, from which step, and with which settings and state."""

import dataclasses
import functools
from pathlib import Path

from ml_collections import ConfigDict

from rankclip_jax.checkpoints import workdir as workdirs
from rankclip_jax.checkpoints.manager import choose_whole, read_state
from rankclip_jax.cli.console import say
from rankclip_jax.distributed.processes import is_primary_process
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.interop import loading
from rankclip_jax.settings import comparison, schema
from rankclip_jax.training import schedule
from rankclip_jax.training.experiment import Experiment
from rankclip_jax.training.run import Run
from rankclip_jax.training.state import TrainState, abstract_state, create


@dataclasses.dataclass(frozen=True)
class Start:
    """The point from which a run starts.

    Args:
      step: updates done; 0 for a new run.
      saved: whether a checkpoint of the step exists.
      aside: names of checkpoints that cannot be used and are moved aside.
    """

    step: int = 0
    saved: bool = False
    aside: tuple[str, ...] = ()


def resolve_config(workdir: Path, config: ConfigDict, examples: int) -> tuple[ConfigDict, ConfigDict | None]:
    """Returns the settings to train with, and those of the run in the folder, which may differ only in its length.

    Settings added to the code after the run started keep the run's behaviour, unless the user changes them. Settings
    without a checkpoint are not a run, and may be replaced. Nothing is written.

    Args:
      workdir: the run's folder.
      config: the requested settings, complete.
      examples: number of training records.

    Raises:
      UserError: the folder holds a run with other settings.
    """
    if not workdirs.saved_steps(workdir) and not workdirs.misnamed(workdir):
        return config, None
    stored, added = workdirs.read_config_and_added(workdir)
    requested, defaults = (dict(schema.flatten(schema.to_dict(settings))) for settings in (config, schema.base()))
    kept = {name for name in added if name in requested and requested[name] == defaults[name]}
    old, new = ConfigDict(stored), config.copy_and_resolve_references()
    with new.unlocked():
        new.update_from_flattened_dict({name: dict(schema.flatten(stored))[name] for name in kept})
    if new.model.dtype == "auto":  # resolved when the run started, perhaps on other devices
        new.model.dtype = old.model.dtype
    lengths = [schedule.warmup_length(settings.optimizer, total_steps(settings, examples)) for settings in (old, new)]
    if lengths[0] == lengths[1]:  # the same warmup, whether given in steps or as a fraction
        new.optimizer.update({name: old.optimizer[name] for name in ("warmup_fraction", "warmup_steps")})
    if lines := comparison.differences(stored, schema.to_dict(new)):
        raise UserError(
            f"--workdir: {workdir} holds a run with other settings: {'; '.join(lines)}. "
            "Use another --workdir for a new run, or restore the old values of these settings to resume."
        )
    return new, old


def total_steps(config: ConfigDict, examples: int) -> int:
    """Returns the length of the run in steps, at least one; a partial batch at the end is dropped."""
    return config.train.steps or max(config.train.epochs * examples // config.train.global_batch_size, 1)


def choose_start(experiment: Experiment, workdir: Path, stored: ConfigDict | None, examples: int) -> Start:
    """Returns the checkpoint to resume from: the newest valid one, or the newest that allows a new length."""
    if stored is None:
        return Start()
    before, now = total_steps(stored, examples), experiment.total_steps
    if before == now:
        return newest(workdir)
    lengthen = functools.partial(schedule.step_to_lengthen_from, experiment.config.optimizer, before, now)
    step, broken = choose_whole(workdir, lengthen)
    later = {str(later) for later in workdirs.saved_steps(workdir) if later > step}
    if is_primary_process():
        say(f"note: extending to {now} steps: resuming from step {step}, before the learning rate decayed")
    return Start(step, saved=True, aside=tuple(sorted(later.union(broken))))


def newest(workdir: Path) -> Start:
    """Returns the newest valid checkpoint of the run, or step 0 if there is none."""
    if not workdirs.saved_steps(workdir) and not workdirs.misnamed(workdir):
        return Start()
    step, broken = choose_whole(workdir)
    return Start(step, saved=True, aside=tuple(broken))


def restore_or_initialise(experiment: Experiment, workdir: Path, start: Start) -> TrainState:
    """Returns the restored state, or an initial one from ``config.init_from`` or from random weights."""
    if not start.saved:
        return create(experiment, loading.weights_to_start_from(experiment.config, experiment.model))
    return read_state(workdir, abstract_state(experiment), start.step)


def roll_back(run: Run) -> tuple[Run, Start, TrainState]:
    """Another attempt at the run, from its last checkpoint on."""
    with run.timeline.span("recovery", "the rollback to the last checkpoint"):
        start = newest(run.workdir)
        state = restore_or_initialise(run.experiment, run.workdir, start)
    if is_primary_process():
        say(f"resuming from step {start.step}")
    return run.at(start.step), start, state
