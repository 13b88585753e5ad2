"""The training state: parameters, optimizer state and everything else that a checkpoint holds."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from rankclip_jax.models.clip import Variables, join
from rankclip_jax.training.experiment import Experiment


@flax.struct.dataclass
class TrainState:
    """The complete state of a run at a step, as checkpoints store it.

    Args:
      step: updates done.
      parameters: ``vision``, ``text``, ``logit_scale`` and the objective's parameters.
      batch_statistics: the running means and variances of ResNets; empty for other models.
      optimizer_state: the optimizer's state.
      ema: the EMA of the parameters; empty if none is kept.
      objective_state: the objective's state, by name.
    """

    step: jax.Array
    parameters: optax.Params
    batch_statistics: dict[str, Any]
    optimizer_state: optax.OptState
    ema: dict[str, Any]
    objective_state: dict[str, Any]

    @property
    def variables(self) -> Variables:
        """The model's variables, as Flax collections."""
        return join(self.parameters, self.batch_statistics)

    def variables_of(self, weights: str) -> Variables:
        """Returns the variables with the ``"latest"`` weights or with their ``"ema"``."""
        return self.variables if weights == "latest" else join(self.ema, self.batch_statistics)


def create(experiment: Experiment, variables: Variables | None = None) -> TrainState:
    """Creates the state at step 0, sharded over the mesh, as a pure function of the settings.

    Args:
      experiment: the experiment.
      variables: pretrained weights; None: initialised from the seed.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(experiment))
    key = jax.random.key(experiment.config.seed)
    if variables is not None:
        start = jax.jit(lambda variables: _at_start(experiment, variables), out_shardings=shardings)
        return start(experiment.with_objective_params(jax.tree.map(np.asarray, variables), key))
    start = jax.jit(lambda key: _at_start(experiment, experiment.init_variables(key)), out_shardings=shardings)
    return start(key)


def abstract_state(experiment: Experiment) -> TrainState:
    """Returns the shapes, dtypes and shardings of the state without allocating it."""
    shapes = jax.eval_shape(lambda variables: _at_start(experiment, variables), experiment.abstract_variables())
    experiment.layout.check_overrides(shapes)
    return experiment.layout.describe(shapes)


def _at_start(experiment: Experiment, variables: Variables) -> TrainState:
    parameters = variables["params"]
    ema = jax.tree.map(jnp.copy, parameters) if experiment.config.optimizer.ema_decay else {}
    statistics = variables.get("batch_stats", {})
    optimizer_state, objective_state = experiment.optimizer.init(parameters), experiment.initial_objective_state()
    return TrainState(jnp.zeros((), jnp.int32), parameters, statistics, optimizer_state, ema, objective_state)
