"""What a run consists of at a step, and how a step changes it."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rankclip_jax import optimizer
from rankclip_jax.models.clip import MAX_LOGIT_SCALE, Clip, Variables, initial_variables
from rankclip_jax.objectives import OBJECTIVES
from rankclip_jax.parallel.mesh import replicated, split_rows

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


@flax.struct.dataclass
class TrainState:
    """Everything that a checkpoint holds; ``step`` counts the updates done.

    ``batch_statistics`` are the running means and variances of ResNets; other models have none.
    """

    step: jax.Array
    parameters: optax.Params
    batch_statistics: dict[str, Any]
    optimizer_state: optax.OptState

    @property
    def variables(self) -> Variables:
        """What the model is applied to."""
        return join(self.parameters, self.batch_statistics)


def join(parameters: optax.Params, batch_statistics: dict[str, Any]) -> Variables:
    """Flax's collections; one that is empty is left out, as Flax does."""
    collections = {"params": parameters, "batch_stats": batch_statistics}
    return {name: values for name, values in collections.items() if values}


def create(model: Clip, config: ConfigDict, mesh: Mesh) -> TrainState:
    """The state at step 0, a pure function of the settings, laid out on the mesh."""
    initialise = _initialiser(model, config)
    return jax.jit(initialise, out_shardings=replicated(mesh))(jax.random.key(config.seed))


def start_from(variables: Variables, model: Clip, config: ConfigDict, mesh: Mesh) -> TrainState:
    """The state at step 0 with weights that were learned elsewhere, laid out on the mesh."""
    place = jax.jit(lambda variables: _at_start(variables, model, config), out_shardings=replicated(mesh))
    return place(variables)


def describe(model: Clip, config: ConfigDict, mesh: Mesh) -> TrainState:
    """The shapes, types and layout of the state, without computing it."""
    shapes = jax.eval_shape(_initialiser(model, config), jax.random.key(config.seed))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)), shapes)


def _initialiser(model: Clip, config: ConfigDict) -> Callable[[jax.Array], TrainState]:
    return lambda key: _at_start(initial_variables(model, key), model, config)


def _at_start(variables: Variables, model: Clip, config: ConfigDict) -> TrainState:
    parameters = variables["params"]
    optimizer_state = _optimizer(model, config, total_steps=1).init(parameters)
    return TrainState(jnp.zeros((), jnp.int32), parameters, variables.get("batch_stats", {}), optimizer_state)


def _optimizer(model: Clip, config: ConfigDict, total_steps: int) -> optax.GradientTransformation:
    """The optimiser of all but the frozen tower; its state does not depend on the length of the run."""
    return optimizer.build(config.optimizer, total_steps, frozen=model.frozen)


def make_step(
    model: Clip, config: ConfigDict, total_steps: int, mesh: Mesh
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The jitted ``step(state, batch) -> (state, metrics)``; the state given to it is donated.

    A step is a pure function of (state, batch, step): its randomness comes from the seed and the step alone.
    """
    tx = _optimizer(model, config, total_steps)
    learning_rate = optimizer.learning_rate_schedule(config.optimizer, total_steps)
    objective = OBJECTIVES[config.objective.name]

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        progress = state.step / max(total_steps - 1, 1)

        def loss_of(parameters: optax.Params) -> tuple[jax.Array, tuple[Metrics, dict[str, Any]]]:
            outputs, batch_statistics = _forward(model, parameters, state.batch_statistics, batch, key)
            loss, metrics = objective(outputs, progress=progress, key=key, config=config.objective, mesh=mesh)
            return loss, (metrics | {"logit_scale": outputs["logit_scale"]}, batch_statistics)

        (loss, (metrics, batch_statistics)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.parameters)
        updates, optimizer_state = tx.update(gradients, state.optimizer_state, state.parameters)
        parameters = optax.apply_updates(state.parameters, updates)
        parameters = parameters | {"logit_scale": jnp.clip(parameters["logit_scale"], 0, MAX_LOGIT_SCALE)}
        metrics = {"loss": loss} | metrics
        metrics |= {"gradient_norm": optax.tree.norm(gradients), "learning_rate": learning_rate(state.step)}
        return TrainState(state.step + 1, parameters, batch_statistics, optimizer_state), metrics

    return jax.jit(
        step,
        in_shardings=(replicated(mesh), split_rows(mesh)),
        out_shardings=(replicated(mesh), replicated(mesh)),
        donate_argnums=0,
    )


def _forward(
    model: Clip, parameters: optax.Params, batch_statistics: dict[str, Any], batch: Batch, key: jax.Array
) -> tuple[Any, dict[str, Any]]:
    """The model's outputs in training, of both views where there are two, and the statistics after them."""

    def apply(image: str, text: str, batch_statistics: dict[str, Any], view: int) -> tuple[Any, dict[str, Any]]:
        outputs, changed = model.apply(
            join(parameters, batch_statistics),
            batch[image],
            batch[text],
            train=True,
            mutable=["batch_stats"],
            rngs={"patch_dropout": jax.random.fold_in(key, view)},
        )
        return outputs, changed.get("batch_stats", batch_statistics)

    outputs, batch_statistics = apply("image", "text", batch_statistics, 0)
    if "image_augmented" in batch:
        second, batch_statistics = apply("image_augmented", "text_augmented", batch_statistics, 1)
        for name in ("image", "text"):
            outputs[f"{name}_augmented_embedding"] = second[f"{name}_embedding"]
    return outputs, batch_statistics
