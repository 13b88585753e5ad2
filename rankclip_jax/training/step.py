"""The training step: gradients, update, EMA and metrics."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from rankclip_jax.distributed.mesh import make_mesh
from rankclip_jax.models import clip
from rankclip_jax.objectives import LossResult, Metrics, Step, teacher
from rankclip_jax.planning.plan import TracedStep
from rankclip_jax.training.experiment import Experiment, build_experiment, check
from rankclip_jax.training.forward import Batch, forward
from rankclip_jax.training.state import TrainState, abstract_state

_STEPS = 10**6  # length of a planned run whose number of epochs cannot be converted to steps without its data

StepFunction = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_step(experiment: Experiment) -> Any:
    """Returns the jitted ``step(state, batch) -> (state, metrics)``, which donates the state.

    A step is a pure function of (state, batch, step): its randomness comes only from the seed and the step. Metrics
    are scalars by name: the loss, the objective's metrics, the scale, the gradient norm, the learning rate, and whether
    loss and gradients are ``finite``. If not, ``config.train.on_nonfinite="skip"`` keeps the old state.
    """
    config, layout = experiment.config, experiment.layout
    last_step = max(experiment.total_steps - 1, 1)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        views = {name: rows for name, rows in batch.items() if name != "sample"}

        def loss_of(parameters: optax.Params) -> tuple[jax.Array, tuple[LossResult, dict[str, Any]]]:
            outputs, batch_statistics = forward(experiment, parameters, state.batch_statistics, views, key)
            step = Step(state.step / last_step, key, layout.mesh, state.objective_state, batch.get("sample"))
            result = experiment.objective.loss(outputs, step)
            metrics = result.metrics | {"logit_scale": outputs.scalars["scale"]}
            return result.loss, (result._replace(metrics=metrics), batch_statistics)

        (loss, (result, batch_statistics)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.parameters)
        updates, optimizer_state = experiment.optimizer.update(gradients, state.optimizer_state, state.parameters)
        parameters = clip.constrain(optax.apply_updates(state.parameters, updates))
        ema = _update_ema(state.ema, parameters, config.optimizer.ema_decay, state.step)
        metrics = {"loss": loss} | result.metrics
        metrics |= {"gradient_norm": optax.tree.norm(gradients), "learning_rate": experiment.learning_rate(state.step)}
        metrics["finite"] = jnp.isfinite(loss) & jnp.isfinite(metrics["gradient_norm"])
        new = TrainState(state.step + 1, parameters, batch_statistics, optimizer_state, ema, dict(result.state))
        if config.train.on_nonfinite == "skip":
            kept = dataclasses.replace(state, step=state.step + 1)
            new = jax.tree.map(lambda new, old: jnp.where(metrics["finite"], new, old), new, kept)
        return new, metrics

    state = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(experiment))
    return jax.jit(
        step,
        in_shardings=(state, layout.rows),
        out_shardings=(state, layout.replicated),
        donate_argnums=0,
    )


def trace_step(config: ConfigDict, devices: Sequence[jax.Device]) -> TracedStep:
    """Traces the step for devices that need not be attached, so that `planning` can compile it.

    Raises:
      UserError: the settings are invalid on these devices.
    """
    check(config, len(devices), devices[0].platform)
    mesh = make_mesh(config.mesh, devices)
    return traced(build_experiment(config, mesh, config.train.steps or _STEPS))


def traced(experiment: Experiment) -> TracedStep:
    """Traces the step of an experiment without compiling it."""
    state, batch = abstract_state(experiment), abstract_batch(experiment)
    step = make_step(experiment).trace(state, batch)
    return TracedStep(experiment.config, experiment.layout.mesh, state, batch, step)


def abstract_batch(experiment: Experiment) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes, dtypes and shardings of a training batch."""
    config, preset = experiment.config, experiment.model.preset
    rows, side = config.train.global_batch_size, preset.vision.image_size
    image, text = ((rows, side, side, 3), jnp.uint8), ((rows, preset.text.context_length), jnp.int32)
    views: dict[str, tuple[tuple[int, ...], Any]] = {"image": image, "text": text}
    if experiment.objective.needs_second_views:
        views |= {"image_augmented": image, "text_augmented": text}
    if experiment.objective.is_stateful:
        views["sample"] = ((rows,), jnp.int32)
    for number, width in enumerate(experiment.teacher_widths):
        views |= dict.fromkeys(teacher.views(number), ((rows, width), jnp.float32))
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=experiment.layout.rows)
        for name, (shape, dtype) in views.items()
    }


def _update_ema(ema: dict[str, Any], parameters: optax.Params, decay: float, step: jax.Array) -> dict[str, Any]:
    """Returns the EMA after an update; the first steps use a smaller decay, so that the initial weights fade."""
    if not ema:
        return ema
    kept = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda old, new: kept * old + (1 - kept) * new, ema, parameters)


def skip_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """Skips a batch: increments the step without an update, and returns no metrics."""
    del batch
    return _increment_step(state), {}


@functools.partial(jax.jit, donate_argnums=0)
def _increment_step(state: TrainState) -> TrainState:
    return dataclasses.replace(state, step=state.step + 1)
