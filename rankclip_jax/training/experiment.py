"""The parts of a run, put together once from its settings; nothing is read, written or computed."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rankclip_jax.distributed.sharding import Layout
from rankclip_jax.models import clip
from rankclip_jax.models.clip import Clip, Outputs, Variables
from rankclip_jax.objectives import OBJECTIVES, Objective, Options, Step, options_of, parameters_of, state_of
from rankclip_jax.objectives.objective import Metrics
from rankclip_jax.settings import resolution as settings
from rankclip_jax.training import optimizer, schedule


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What training, evaluation and benchmarks are made of; its parts are built when first asked for.

    Args:
      config: the settings.
      layout: how state and batch lie on the devices.
      total_steps: length of the run in updates; None where nothing is trained.
      examples: records of the training data; 0 where nothing is trained.
    """

    config: ConfigDict
    layout: Layout
    total_steps: int | None
    examples: int

    @functools.cached_property
    def model(self) -> Clip:
        """The two towers."""
        return clip.build(self.config.model, self.layout.mesh.devices.flat[0].platform)

    def objective(self, outputs: Outputs, step: Step) -> tuple[jax.Array, Metrics]:
        """The loss and its metrics, with the options of the settings."""
        return self.method.loss(outputs, self._options, step)

    def validation_loss(self, outputs: Outputs, key: jax.Array, mesh: Mesh | None) -> tuple[jax.Array, Metrics]:
        """The same at the end of training, for pairs that are not of the training data; metrics that are numbers."""
        count = len(outputs.embeddings["image"])
        state = state_of(self.method, self._options, count)
        loss, metrics = self.objective(outputs, Step(1.0, key, mesh, state, jnp.arange(count)))
        return loss, {name: value for name, value in metrics.items() if name not in state}

    @property
    def method(self) -> Objective:
        """The file of the objective."""
        return OBJECTIVES[self.config.objective.name]

    @property
    def knows_method(self) -> bool:
        """Whether there is such a file here; a run whose recipe added it is read without."""
        return self.config.objective.name in OBJECTIVES

    @functools.cached_property
    def _options(self) -> Options:
        return options_of(self.method, self.config.objective)

    @functools.cached_property
    def objective_params(self) -> dict[str, np.ndarray]:
        """What the method learns beside the model, as it starts; nothing where the method is not here."""
        if not self.knows_method:
            return {}
        return {name: np.asarray(value, np.float32) for name, value in parameters_of(self.method).items()}

    @property
    def is_stateful(self) -> bool:
        """Whether the method has a state of its own, and so wants to know which samples it sees."""
        return hasattr(self.method, "initial_state")

    def initial_method_state(self) -> dict[str, jax.Array]:
        """What the method is_stateful and does not learn, as it starts."""
        return state_of(self.method, self._options, self.examples)

    @functools.cached_property
    def learning_rate(self) -> optax.Schedule:
        """The rate of each update."""
        assert self.total_steps is not None
        return schedule.learning_rate(self.config.optimizer, self.total_steps)

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """From gradients to updates."""
        parameters = self.abstract_variables()["params"]
        return optimizer.build(self.config.optimizer, self.learning_rate, parameters, frozen=self.model.frozen)

    def init_variables(self, key: jax.Array) -> Variables:
        """Freshly drawn weights, the method's own beside the model's."""
        return self.with_objective_params(clip.init_variables(self.model, key))

    def with_objective_params(self, variables: Variables) -> Variables:
        """Weights of the model with the method's own: kept where they are there, from the start where not."""
        own = {name: variables["params"].get(name, value) for name, value in self.objective_params.items()}
        model = {name: variables["params"][name] for name in ("vision", "text", "logit_scale")}
        return variables | {"params": model | own}

    def abstract_variables(self) -> Variables:
        """The shapes and types of the weights, without computing them."""
        return jax.eval_shape(lambda: self.init_variables(jax.random.key(0)))

    def outputs_with(self, outputs: Outputs, parameters: optax.Params) -> Outputs:
        """The model's outputs with the method's own parameters among the scalars."""
        own = {name: parameters[name] for name in self.objective_params}
        return outputs._replace(scalars=outputs.scalars | own)


def build_experiment(config: ConfigDict, mesh: Mesh, total_steps: int | None = None, examples: int = 0) -> Experiment:
    """The parts of the run that the settings describe, on a mesh.

    Args:
      config: checked settings; what they leave to the device is decided here, once.
      mesh: the devices.
      total_steps: length of the run in updates; None where nothing is trained.
      examples: records of the training data; 0 where nothing is trained.
    """
    layout = Layout(mesh, tuple((pattern, dimension) for pattern, dimension in config.mesh.overrides))
    return Experiment(settings.resolve_dtype(config, mesh.devices.flat[0]), layout, total_steps, examples)
