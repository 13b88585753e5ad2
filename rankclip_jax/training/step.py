"""How a step changes the state."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rankclip_jax.models.clip import MAX_LOGIT_SCALE
from rankclip_jax.objectives import Step
from rankclip_jax.objectives.objective import Metrics
from rankclip_jax.training.experiment import Experiment
from rankclip_jax.training.forward import Batch, forward
from rankclip_jax.training.state import TrainState, describe

StepFunction = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_step(experiment: Experiment) -> Any:
    """The jitted ``step(state, batch) -> (state, metrics)``; the state given to it is donated.

    A step is a pure function of (state, batch, step): its randomness comes from the seed and the step alone. Metrics
    are scalars by name: the loss, the objective's own, the scale, the gradients' norm, the learning rate, and whether
    loss and gradients are ``finite``: where not, ``config.train.on_nonfinite="skip"`` keeps the state.
    """
    config, layout = experiment.config, experiment.layout
    assert experiment.total_steps is not None
    last_step = max(experiment.total_steps - 1, 1)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        views = {name: rows for name, rows in batch.items() if name != "sample"}

        def loss_of(parameters: optax.Params) -> tuple[jax.Array, tuple[Metrics, dict[str, Any]]]:
            outputs, batch_statistics = forward(experiment, parameters, state.batch_statistics, views, key)
            step = Step(state.step / last_step, key, layout.mesh, state.objective_state, batch.get("sample"))
            loss, metrics = experiment.objective(outputs, step)
            return loss, (metrics | {"logit_scale": outputs.scalars["scale"]}, batch_statistics)

        (loss, (metrics, batch_statistics)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.parameters)
        updates, optimizer_state = experiment.optimizer.update(gradients, state.optimizer_state, state.parameters)
        parameters = optax.apply_updates(state.parameters, updates)
        parameters = parameters | {"logit_scale": jnp.clip(parameters["logit_scale"], 0, MAX_LOGIT_SCALE)}
        ema = _moved(state.ema, parameters, config.optimizer.ema_decay, state.step)
        objective_state = {name: metrics.pop(name) for name in state.objective_state}
        metrics = {"loss": loss} | metrics
        metrics |= {"gradient_norm": optax.tree.norm(gradients), "learning_rate": experiment.learning_rate(state.step)}
        metrics["finite"] = jnp.isfinite(loss) & jnp.isfinite(metrics["gradient_norm"])
        new = TrainState(state.step + 1, parameters, batch_statistics, optimizer_state, ema, objective_state)
        if config.train.on_nonfinite == "skip":
            kept = dataclasses.replace(state, step=state.step + 1)
            new = jax.tree.map(lambda new, old: jnp.where(metrics["finite"], new, old), new, kept)
        return new, metrics

    state = jax.tree.map(lambda leaf: leaf.sharding, describe(experiment))
    return jax.jit(
        step,
        in_shardings=(state, layout.rows),
        out_shardings=(state, layout.replicated),
        donate_argnums=0,
    )


def describe_batch(experiment: Experiment) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes, types and layout of a training batch."""
    config, preset = experiment.config, experiment.model.preset
    rows, side = config.train.global_batch_size, preset.vision.image_size
    image, text = ((rows, side, side, 3), jnp.uint8), ((rows, preset.text.context_length), jnp.int32)
    views = {"image": image, "text": text}
    if config.objective.second_view:
        views |= {"image_augmented": image, "text_augmented": text}
    if experiment.is_stateful:
        views["sample"] = ((rows,), jnp.int32)
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=experiment.layout.rows)
        for name, (shape, dtype) in views.items()
    }


def _moved(average: dict[str, Any], parameters: optax.Params, factor: float, step: jax.Array) -> dict[str, Any]:
    """The moving average after an update; in the first steps a smaller factor lets go of the start."""
    if not average:
        return average
    kept = jnp.minimum(factor, (1 + step) / (10 + step))
    return jax.tree.map(lambda old, new: kept * old + (1 - kept) * new, average, parameters)
