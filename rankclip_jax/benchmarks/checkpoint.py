"""Benchmark of a recipe's checkpoints: their cost in training time, and the time to verify and restore one."""

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
    """Measures steps with and without a checkpoint in alternation, then verification and restore; returns the rows.

    Args:
      config: the settings.
      folder: the folder in which checkpoints are written temporarily.
      steps: steps per turn; the save starts before the first and is complete after the last.

    Raises:
      UserError: the settings are invalid, or the step does not fit in memory.
    """
    check(config, jax.device_count())
    experiment = build_experiment(config, make_mesh(config.mesh), LENGTH, config.train.global_batch_size)
    step: Any = compile_step(experiment, announce=True)
    state, batch = create(experiment), experiment.layout.put_rows(random_batch(experiment))
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        workdir = Path(temporary)
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
    step_seconds = training.median("plain") / steps
    pairs = zip(training.seconds["saved"], training.seconds["plain"], strict=True)
    extra = None if training.is_busy else Spread.of(saved - plain for saved, plain in pairs)
    every = config.checkpoint.every_steps
    share = extra and Spread(*(seconds / (every * step_seconds) for seconds in extra))
    row: dict[str, Any] = {"model": config.model.name, "gib": size / 2**30, "every_steps": every}
    row |= columns("step_seconds", training.spread("plain", 1 / steps))
    row |= columns("checkpoint_seconds", extra) | columns("share_of_training", share)
    row |= columns("verify_seconds", reading.spread("verify")) | columns("restore_seconds", reading.spread("restore"))
    row |= training.load_columns()
    print(
        f"{row['model']}: a checkpoint of {row['gib']:.2f} GiB takes {format_row(row, 'checkpoint_seconds', '.2f')} s "
        f"of training time, {format_row(row, 'share_of_training', '.2%')} of {every:,} steps of {step_seconds:.3f} s; "
        f"verified in {format_row(row, 'verify_seconds', '.2f')} s, restored in "
        f"{format_row(row, 'restore_seconds', '.2f')} s"
    )
    print_conclusion(training, reading)
    return [row]
