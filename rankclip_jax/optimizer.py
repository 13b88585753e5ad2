"""AdamW with CLIP's exemptions from weight decay, warmup and a cosine."""

import jax
import optax
from ml_collections import ConfigDict

_NOT_DECAYED = {"bias", "scale", "class_embedding", "logit_scale", "logit_bias"}


def learning_rate_schedule(config: ConfigDict, total_steps: int) -> optax.Schedule:
    """Linear from zero to the peak over the warmup, then a cosine to zero at the last step.

    Args:
      config: the settings under ``config.optimizer``.
    """
    return optax.schedules.join_schedules(
        [
            optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps),
            optax.cosine_decay_schedule(config.learning_rate, max(total_steps - config.warmup_steps, 1)),
        ],
        [config.warmup_steps],
    )


def build(config: ConfigDict, total_steps: int, frozen: str = "") -> optax.GradientTransformation:
    """AdamW with decoupled decay (Loshchilov and Hutter, 2019), after clipping to a global norm where asked.

    Args:
      config: the settings under ``config.optimizer``.
      frozen: the part of the model, ``"vision"`` or ``"text"``, that stays as it is and has no state; ``""``: none.
    """
    adamw = optax.adamw(
        learning_rate_schedule(config, total_steps),
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=decayed,
    )
    if config.gradient_clip:
        adamw = optax.chain(optax.clip_by_global_norm(config.gradient_clip), adamw)
    if not frozen:
        return adamw
    return optax.multi_transform(
        {"learns": adamw, "frozen": optax.set_to_zero()},
        lambda parameters: {part: "frozen" if part == frozen else "learns" for part in parameters},
    )


def decayed(parameters: optax.Params) -> optax.Params:
    """Which parameters decay: all but biases, norms' scales, the class embedding and the logit scale."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in _NOT_DECAYED, parameters)
