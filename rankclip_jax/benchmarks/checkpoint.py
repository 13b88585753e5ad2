"""What a recipe's checkpoints cost its training, and how long a run takes to come back from one."""

import tempfile
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from rankclip_jax.benchmarks.timing import Spread, columns, format_row, print_conclusion, take_turns, timed
from rankclip_jax.benchmarks.train import LENGTH, random_batch
from rankclip_jax.checkpoints.manager import Checkpoints, bytes_of, faults_of, read_state
from rankclip_jax.checkpoints.workdir import saved_steps, write_config
from rankclip_jax.distributed.mesh import make_mesh
from rankclip_jax.training.compilation import compile_step
from rankclip_jax.training.experiment import build_experiment, check
from rankclip_jax.training.state import abstract_state, create


def run(config: ConfigDict, folder: Path, steps: int) -> list[dict]:
    """Takes steps with a checkpoint among them and without one, in turns, and comes back from the last; the rows.

    Args:
      config: the settings.
      folder: checkpoints are written below it, and removed.
      steps: in each turn; the checkpoint is begun before the first and is safe after the last.

    Raises:
      UserError: the settings are not usable, or the step does not fit.
    """
    check(config, jax.device_count())
    experiment = build_experiment(config, make_mesh(config.mesh), LENGTH, config.train.global_batch_size)
    step: Any = compile_step(experiment, announce=True)
    state, batch = create(experiment), experiment.layout.put_rows(random_batch(experiment))
    with tempfile.TemporaryDirectory(dir=folder) as place:
        workdir = Path(place)
        write_config(workdir, config)
        checkpoints = Checkpoints(workdir, config, abstract_state(experiment))

        def take(save: bool) -> dict:
            nonlocal state
            if save:
                checkpoints.save(state)
            for _ in range(steps):
                state, metrics = step(state, batch)
            jax.block_until_ready(metrics)
            if save:
                checkpoints.wait()
            return metrics

        training = take_turns({"plain": timed(lambda: take(save=False)), "saved": timed(lambda: take(save=True))})
        last = saved_steps(workdir)[-1]
        checkpoints.close()
        del state
        size = bytes_of(workdir, last)
        reading = take_turns(
            {
                "verify": timed(lambda: faults_of(workdir, last)),
                "restore": timed(lambda: read_state(workdir, abstract_state(experiment), last)),
            }
        )
    a_step = training.median("plain") / steps
    pairs = zip(training.seconds["saved"], training.seconds["plain"], strict=True)
    extra = None if training.is_busy else Spread.of(saved - plain for saved, plain in pairs)
    every = config.checkpoint.every_steps
    share = extra and Spread(*(seconds / (every * a_step) for seconds in extra))
    row: dict[str, Any] = {"model": config.model.name, "gib": size / 2**30, "every_steps": every}
    row |= columns("step_seconds", training.spread("plain", 1 / steps))
    row |= columns("checkpoint_seconds", extra) | columns("share_of_training", share)
    row |= columns("verify_seconds", reading.spread("verify")) | columns("restore_seconds", reading.spread("restore"))
    row |= training.load_columns()
    print(
        f"{row['model']}: a checkpoint of {row['gib']:.2f} GiB takes {format_row(row, 'checkpoint_seconds', '.2f')} s "
        f"from training, {format_row(row, 'share_of_training', '.2%')} of {every:,} steps of {a_step:.3f} s; verified "
        f"in {format_row(row, 'verify_seconds', '.2f')} s, restored in {format_row(row, 'restore_seconds', '.2f')} s"
    )
    print_conclusion(training, reading)
    return [row]
