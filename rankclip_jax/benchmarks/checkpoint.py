"""What a recipe's checkpoints cost its training, and how long a run takes to come back from one."""

import tempfile
import time
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from rankclip_jax.benchmarks.timing import medians_in_turn, timed
from rankclip_jax.benchmarks.train import LENGTH, random_batch
from rankclip_jax.parallel.mesh import make_mesh
from rankclip_jax.run import settings
from rankclip_jax.run.assembly import assemble
from rankclip_jax.run.checkpoints import Checkpoints, bytes_of, faults_of, read_state
from rankclip_jax.run.state import create, describe
from rankclip_jax.run.workdir import saved_steps, write_config
from rankclip_jax.training.compilation import compile_step


def run(config: ConfigDict, folder: Path, steps: int) -> list[dict]:
    """Takes steps with a checkpoint among them and without one, in turns, and comes back from the last; the rows.

    Args:
      config: the settings.
      folder: checkpoints are written below it, and removed.
      steps: in each turn; the checkpoint is begun before the first and is safe after the last.

    Raises:
      UserError: the settings are not usable, or the step does not fit.
    """
    settings.check(config, jax.device_count())
    assembly = assemble(config, make_mesh(config.mesh), LENGTH, config.train.global_batch_size)
    step: Any = compile_step(assembly, announce=True)
    state, batch = create(assembly), assembly.layout.put_rows(random_batch(assembly))
    with tempfile.TemporaryDirectory(dir=folder) as place:
        workdir = Path(place)
        write_config(workdir, config)
        checkpoints = Checkpoints(workdir, assembly)

        def take(count: int, save: bool) -> float:
            nonlocal state
            start = time.perf_counter()
            if save:
                checkpoints.save(state)
            for _ in range(count):
                state, metrics = step(state, batch)
            jax.block_until_ready(metrics)
            if save:
                checkpoints.wait()
            return time.perf_counter() - start

        seconds = medians_in_turn(
            {"plain": lambda count: take(count, save=False), "saved": lambda count: take(count, save=True)}, steps
        )
        last = saved_steps(workdir)[-1]
        checkpoints.close()
        del state
        size = bytes_of(workdir, last)
        seconds |= medians_in_turn(
            {
                "verify": timed(lambda: faults_of(workdir, last)),
                "restore": timed(lambda: read_state(workdir, describe(assembly), last)),
            }
        )
    a_step, extra = seconds["plain"] / steps, seconds["saved"] - seconds["plain"]
    row = {
        "model": config.model.name,
        "gib": size / 2**30,
        "step_seconds": a_step,
        "checkpoint_seconds": extra,
        "every_steps": config.checkpoint.every_steps,
        "share_of_training": extra / (config.checkpoint.every_steps * a_step),
        "verify_seconds": seconds["verify"],
        "restore_seconds": seconds["restore"],
    }
    print(
        f"{row['model']}: a checkpoint of {row['gib']:.2f} GiB takes {extra:.2f} s from training, "
        f"{row['share_of_training']:.2%} of {row['every_steps']:,} steps of {a_step:.3f} s; "
        f"verified in {row['verify_seconds']:.2f} s, restored in {row['restore_seconds']:.2f} s"
    )
    return [row]
