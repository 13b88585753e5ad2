"""An objective's own module: its parameters beside the model's, and what it makes of the model's outputs."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from rankclip_jax.models import clip
from rankclip_jax.models.clip import Clip, Outputs, Variables
from rankclip_jax.objectives.objective import Objective

HEAD = "head"  # its place among the parameters


def init(objective: Objective, model: Clip, variables: Variables, key: jax.Array) -> optax.Params | None:
    """Draws the module's parameters; None: the objective has no module.

    Args:
      objective: whose module it is.
      model: the encoders.
      variables: of the model.
      key: of the draws.
    """
    module = objective.head(model.preset.embedding_size)
    if module is None:
        return None
    batch = {name: jnp.zeros((1, *x.shape[1:]), x.dtype) for name, x in clip.abstract_batch(model).items()}
    outputs: Any = model.apply(variables, batch, tokens=objective.needs_tokens)
    return module.init(key, outputs, batch)["params"]


def apply(
    objective: Objective, model: Clip, variables: Variables, outputs: Outputs, batch: dict[str, jax.Array]
) -> Outputs:
    """The outputs with what the module makes of them; the same where there is none."""
    module = objective.head(model.preset.embedding_size)
    if module is None:
        return outputs
    made: Any = module.apply({"params": variables["params"][HEAD]}, outputs, batch)
    return outputs._replace(head=made)
