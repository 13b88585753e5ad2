"""Learning rate schedules, and the checkpoints from which a run can be extended."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from rankclip_jax.input_pipeline.errors import UserError

SCHEDULES = ("cosine", "constant", "warmup_stable_decay")


def learning_rate(config: ConfigDict, total_steps: int) -> optax.Schedule:
    """Returns the learning rate of updates ``k = 0, 1, ...``: linear warmup to the peak, then the named schedule.

    ``cosine`` decays from the end of the warmup to the end of the run, to ``final_fraction`` of the peak. ``constant``
    stays at the peak. ``warmup_stable_decay`` (Hu et al., 2024) stays at the peak, and decays linearly to
    ``final_fraction`` of it over the last ``decay_fraction`` of the run.

    Args:
      config: the settings under ``config.optimizer``.
      total_steps: length of the run in updates.

    Raises:
      UserError: the warmup takes the whole run, or is given both in steps and as a fraction.
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
    """Returns the length of the warmup in updates, from ``warmup_steps`` or ``warmup_fraction``.

    Raises:
      UserError: both are given, or the warmup takes the whole run.
    """
    if config.warmup_steps and config.warmup_fraction:
        raise UserError(
            f"config.optimizer: expected either warmup_steps or warmup_fraction; found {config.warmup_steps} and "
            f"{config.warmup_fraction}. Set one of them to 0, such as --config.optimizer.warmup_steps=0."
        )
    if config.warmup_steps >= max(total_steps, 1):
        raise UserError(
            f"config.optimizer.warmup_steps: expected fewer than the run's {total_steps} steps; found "
            f"{config.warmup_steps}. Use fewer, or a fraction of the run: --config.optimizer.warmup_steps=0 "
            "--config.optimizer.warmup_fraction=0.05."
        )
    return warmup_length(config, total_steps)


def warmup_length(config: ConfigDict, total_steps: int) -> int:
    """Returns the same as `warmup_steps`, without checking the settings."""
    return config.warmup_steps or min(round(config.warmup_fraction * total_steps), total_steps - 1)


def decay_start(config: ConfigDict, total_steps: int) -> int:
    """Returns the update at which ``warmup_stable_decay`` starts its final decay; the run's end for other schedules."""
    if config.schedule != "warmup_stable_decay":
        return total_steps
    return total_steps - min(
        round(config.decay_fraction * total_steps), total_steps - warmup_steps(config, total_steps)
    )


def step_to_lengthen_from(config: ConfigDict, old_total: int, new_total: int, saved_steps: Sequence[int]) -> int:
    """Returns the newest checkpoint up to which the learning rate is the same for both lengths of the run.

    With ``constant`` that is any checkpoint after the warmup, with ``warmup_stable_decay`` one from before the decay;
    ``cosine`` depends on the length throughout. Scheduled weights of an objective, such as RankCLIP's ramp, follow the
    new length.

    Raises:
      UserError: there is no such checkpoint.
    """
    usable: list[int] = []
    if config.schedule != "cosine":
        first = max(warmup_steps(config, total) for total in (old_total, new_total))
        last = min(decay_start(config, total) for total in (old_total, new_total))
        usable = [step for step in saved_steps if first <= step <= last]
    if not usable:
        reason = {
            "cosine": "its cosine learning rate depends on the length of the run",
            "constant": f"its checkpoints ({', '.join(map(str, saved_steps))}) do not fit the new length",
            "warmup_stable_decay": f"no checkpoint ({', '.join(map(str, saved_steps))}) is from before the decay",
        }[config.schedule]
        raise UserError(
            f"config.train: the run has {old_total} steps and cannot be changed to {new_total}: {reason}. Start a new "
            "run from its weights, with another --workdir and --config.init_from=DIR (for runs that may be extended, "
            "use --config.optimizer.schedule=constant or warmup_stable_decay from the start)."
        )
    return max(usable)
