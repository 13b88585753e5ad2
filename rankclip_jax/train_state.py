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
from rankclip_jax.models.clip import MAX_LOGIT_SCALE, Clip
from rankclip_jax.objectives import OBJECTIVES
from rankclip_jax.parallel.mesh import replicated, split_rows

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


@flax.struct.dataclass
class TrainState:
    """Everything that a checkpoint holds; ``step`` counts the updates done."""

    step: jax.Array
    parameters: optax.Params
    optimizer_state: optax.OptState


def create(model: Clip, config: ConfigDict, mesh: Mesh) -> TrainState:
    """The state at step 0, a pure function of the settings, laid out on the mesh."""
    initialise = _initialiser(model, config)
    return jax.jit(initialise, out_shardings=replicated(mesh))(jax.random.key(config.seed))


def describe(model: Clip, config: ConfigDict, mesh: Mesh) -> TrainState:
    """The shapes, types and layout of the state, without computing it."""
    shapes = jax.eval_shape(_initialiser(model, config), jax.random.key(config.seed))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)), shapes)


def _initialiser(model: Clip, config: ConfigDict) -> Callable[[jax.Array], TrainState]:
    vision, text = model.preset.vision, model.preset.text
    tx = optimizer.build(config.optimizer, total_steps=1)  # the state does not depend on the length of the run

    def initialise(key: jax.Array) -> TrainState:
        image = jnp.zeros((1, vision.image_size, vision.image_size, 3), jnp.uint8)
        parameters = model.init(key, image, jnp.zeros((1, text.context_length), jnp.int32))["params"]
        return TrainState(jnp.zeros((), jnp.int32), parameters, tx.init(parameters))

    return initialise


def make_step(
    model: Clip, config: ConfigDict, total_steps: int, mesh: Mesh
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The jitted ``step(state, batch) -> (state, metrics)``; the state given to it is donated.

    A step is a pure function of (state, batch, step): its randomness comes from the seed and the step alone.
    """
    tx = optimizer.build(config.optimizer, total_steps)
    learning_rate = optimizer.learning_rate_schedule(config.optimizer, total_steps)
    objective = OBJECTIVES[config.objective.name]

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        progress = state.step / max(total_steps - 1, 1)

        def loss_of(parameters: optax.Params) -> tuple[jax.Array, Metrics]:
            outputs: Any = model.apply({"params": parameters}, batch["image"], batch["text"])
            if "image_augmented" in batch:
                second: Any = model.apply({"params": parameters}, batch["image_augmented"], batch["text_augmented"])
                for name in ("image", "text"):
                    outputs[f"{name}_augmented_embedding"] = second[f"{name}_embedding"]
            loss, metrics = objective(outputs, progress=progress, key=key, config=config.objective, mesh=mesh)
            return loss, metrics | {"logit_scale": outputs["logit_scale"]}

        (loss, metrics), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.parameters)
        updates, optimizer_state = tx.update(gradients, state.optimizer_state, state.parameters)
        parameters = optax.apply_updates(state.parameters, updates)
        parameters = parameters | {"logit_scale": jnp.clip(parameters["logit_scale"], 0, MAX_LOGIT_SCALE)}
        metrics = {"loss": loss} | metrics
        metrics |= {"gradient_norm": optax.global_norm(gradients), "learning_rate": learning_rate(state.step)}
        return TrainState(state.step + 1, parameters, optimizer_state), metrics

    return jax.jit(
        step,
        in_shardings=(replicated(mesh), split_rows(mesh)),
        out_shardings=(replicated(mesh), replicated(mesh)),
        donate_argnums=0,
    )
