"""The learning rate over a run, and whether a run may become longer."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from rankclip_jax.input_pipeline.errors import UserError

SCHEDULES = ("cosine", "constant", "warmup_stable_decay")


def learning_rate(config: ConfigDict, total_steps: int) -> optax.Schedule:
    """The rate of update ``k = 0, 1, ...`` of a run: linear to the peak over the warmup, then as the schedule says.

    ``cosine`` falls from the end of the warmup to the end of the run, to ``final_fraction`` of the peak. ``constant``
    stays. ``warmup_stable_decay`` (Hu et al., 2024) stays, and falls linearly to ``final_fraction`` over the last
    ``decay_fraction`` of the run.

    Args:
      config: the settings under ``config.optimizer``.
      total_steps: length of the run in updates.

    Raises:
      UserError: the warmup takes the whole run, or is given twice.
    """
    warmup, decay = warmup_steps(config, total_steps), total_steps - decay_start(config, total_steps)

    def rate(step: jax.Array | int) -> jax.Array:
        if config.schedule == "cosine":
            done = (step - warmup) / (total_steps - warmup)
            shape = (1 + jnp.cos(jnp.pi * jnp.clip(done, 0, 1))) / 2
        elif config.schedule == "warmup_stable_decay" and decay:
            shape = jnp.clip((total_steps - step) / decay, 0, 1)
        else:
            shape = jnp.ones(())
        falling = config.final_fraction + (1 - config.final_fraction) * shape
        return config.learning_rate * jnp.where(step < warmup, (step + 1) / max(warmup, 1), falling)

    return rate


def warmup_steps(config: ConfigDict, total_steps: int) -> int:
    """Updates before the peak: ``warmup_steps``, or ``warmup_fraction`` of the run.

    Raises:
      UserError: both are given, or the warmup takes the whole run.
    """
    if config.warmup_steps and config.warmup_fraction:
        raise UserError(
            f"config.optimizer: expected either warmup_steps or warmup_fraction; found {config.warmup_steps} and "
            f"{config.warmup_fraction}. Set the one that is not meant to 0, such as --config.optimizer.warmup_steps=0."
        )
    if config.warmup_steps >= max(total_steps, 1):
        raise UserError(
            f"config.optimizer.warmup_steps: {config.warmup_steps} steps of warmup leave none of the run's "
            f"{total_steps}. Give a share of the run instead, such as --config.optimizer.warmup_fraction=0.05."
        )
    return warmup_length(config, total_steps)


def warmup_length(config: ConfigDict, total_steps: int) -> int:
    """The same of settings that are not checked."""
    return config.warmup_steps or min(round(config.warmup_fraction * total_steps), total_steps - 1)


def decay_start(config: ConfigDict, total_steps: int) -> int:
    """The update from which on the rate falls for good under ``warmup_stable_decay``; the run's end for others."""
    if config.schedule != "warmup_stable_decay":
        return total_steps
    return total_steps - min(
        round(config.decay_fraction * total_steps), total_steps - warmup_steps(config, total_steps)
    )


def step_to_lengthen_from(config: ConfigDict, old_total: int, new_total: int, saved_steps: Sequence[int]) -> int:
    """The newest checkpoint from which the learning rate of a run of another length goes on as if from the start.

    Under a constant rate that is any, under ``warmup_stable_decay`` one from before the decay; a cosine knows its end
    from the start. An objective's weights that change over training, such as RankCLIP's ramp, follow the new length.

    Raises:
      UserError: there is none.
    """
    usable: list[int] = []
    if config.schedule != "cosine":
        first = max(warmup_steps(config, total) for total in (old_total, new_total))
        last = min(decay_start(config, total) for total in (old_total, new_total))
        usable = [step for step in saved_steps if first <= step <= last]
    if not usable:
        why = {
            "cosine": "the cosine of its learning rate was drawn for that length",
            "constant": f"its checkpoints ({', '.join(map(str, saved_steps))}) do not fit the new length",
            "warmup_stable_decay": f"no checkpoint ({', '.join(map(str, saved_steps))}) lies before the decay",
        }[config.schedule]
        raise UserError(
            f"config.train: the run is {old_total} steps long and cannot become {new_total}: {why}. Start a new run "
            "from its weights, in another --workdir, with --config.init_from=DIR (runs that may grow take "
            "--config.optimizer.schedule=constant or warmup_stable_decay from the start)."
        )
    return max(usable)
