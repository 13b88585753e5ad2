"""The experiment: model, objective, optimizer and schedule, built from the settings without any I/O or computation."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rankclip_jax import objectives
from rankclip_jax.distributed.sharding import Layout
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.tokenizers import TOKENIZERS
from rankclip_jax.models import clip, lora, presets
from rankclip_jax.models.clip import Clip, Outputs, Variables
from rankclip_jax.models.lora import LORA
from rankclip_jax.objectives import OBJECTIVES, Objective, head
from rankclip_jax.objectives.head import HEAD
from rankclip_jax.planning import hardware
from rankclip_jax.settings import validation
from rankclip_jax.settings.schema import schema
from rankclip_jax.training import optimizer, schedule
from rankclip_jax.training.teachers import Teacher

_MODEL = ("vision", "text", "logit_scale")  # a shared tower has no "text"


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The parts that training and benchmarks share; each is built on first access.

    Args:
      config: the settings.
      layout: the sharding of state and batch over the devices.
      total_steps: length of the run in updates.
      examples: number of training records.
      teachers: the models that the objective learns from; empty: none, or not opened.
    """

    config: ConfigDict
    layout: Layout
    total_steps: int
    examples: int
    teachers: Sequence[Teacher] = ()

    @functools.cached_property
    def model(self) -> Clip:
        """The model; encoders that are frozen as a whole run in evaluation mode."""
        model = clip.build(self.config.model, self.layout.mesh.devices.flat[0].platform)
        return model.clone(frozen=_frozen_encoders(model, self.config.optimizer))

    @functools.cached_property
    def objective(self) -> Objective:
        """The training objective, with its options."""
        return objectives.build(self.config.objective)

    def initial_objective_state(self) -> dict[str, jax.Array]:
        """Returns the objective's initial state."""
        return self.objective.state(self.examples)

    @property
    def teacher_widths(self) -> list[int]:
        """The widths of the teachers' embeddings; the model's own for teachers that are not opened."""
        widths = [teacher.width for teacher in self.teachers]
        return widths or [self.model.preset.embedding_size for _ in self.objective.teachers]

    @functools.cached_property
    def learning_rate(self) -> optax.Schedule:
        """The learning rate schedule."""
        return schedule.learning_rate(self.config.optimizer, self.total_steps)

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer with its learning rate schedule."""
        return optimizer.build(self.config.optimizer, self.learning_rate, self.abstract_variables()["params"])

    @functools.cached_property
    def frozen(self) -> Any:
        """The mask of frozen parameters: one boolean for each, or one per block for stacked blocks."""
        return optimizer.frozen_masks(self.abstract_variables()["params"], self.config.optimizer.frozen)

    def init_variables(self, key: jax.Array) -> Variables:
        """Initialises the variables of the model and of the objective."""
        return self.with_objective_params(clip.init_variables(self.model, key), key)

    def with_objective_params(self, variables: Variables, key: jax.Array) -> Variables:
        """Returns the model's variables with the objective's parameters, which are initialised if missing."""
        given = variables["params"]
        model_only = {name: given[name] for name in _MODEL if name in given}
        own = {name: given.get(name, value) for name, value in self.objective.initial_parameters().items()}
        if ranks := self.config.optimizer.lora:
            own[LORA] = given[LORA] if LORA in given else lora.init(given, ranks, jax.random.fold_in(key, 2))
        new_head = given.get(HEAD) or head.init(self.objective, self.model, variables, jax.random.fold_in(key, 1))
        if new_head is not None:
            own[HEAD] = new_head
        return variables | {"params": model_only | own}

    def abstract_variables(self) -> Variables:
        """Returns the shapes and dtypes of the variables without allocating them."""
        return jax.eval_shape(lambda: self.init_variables(jax.random.key(0)))

    def with_scalars(self, outputs: Outputs, parameters: optax.Params) -> Outputs:
        """Returns the model's outputs with the objective's parameters added to the scalars."""
        own = {name: parameters[name] for name in self.objective.parameters()}
        return outputs._replace(scalars=outputs.scalars | own)


def build_experiment(config: ConfigDict, mesh: Mesh, total_steps: int, examples: int = 0) -> Experiment:
    """Builds the experiment that the settings describe, on a mesh.

    Args:
      config: checked settings; device-dependent ones, such as ``model.dtype="auto"``, are resolved here.
      mesh: the devices.
      total_steps: length of the run in updates.
      examples: number of training records.
    """
    layout = Layout(mesh, tuple((pattern, dimension) for pattern, dimension in config.mesh.overrides))
    return Experiment(resolve_dtype(config, mesh.devices.flat[0]), layout, total_steps, examples)


def check(config: ConfigDict, device_count: int, platform: str | None = None) -> None:
    """Raises UserError for invalid settings, naming the flag that fixes them.

    Args:
      config: the settings.
      device_count: number of devices of all processes.
      platform: ``"gpu"``, ``"tpu"`` or ``"cpu"``; None: JAX's default backend.
    """
    validation.check(config)
    preset = presets.preset_of(config.model)
    ids = TOKENIZERS[config.model.tokenizer].vocabulary_size
    if preset.text.vocabulary_size < ids:
        raise UserError(
            f"config.model.text.vocabulary_size: expected at least the {ids:,} ids of the tokenizer "
            f"{config.model.tokenizer!r}; found {preset.text.vocabulary_size:,}. Use "
            f"--config.model.text.vocabulary_size={ids}."
        )
    _check_attention(config.model, platform or jax.default_backend())
    train = config.train
    if config.objective.name in OBJECTIVES and config.objective.list_size > train.global_batch_size:
        raise UserError(
            f"config.objective.list_size: expected 0 (all) to {train.global_batch_size}, the batch size; found "
            f"{config.objective.list_size}. Use --config.objective.list_size=0."
        )
    if train.global_batch_size % device_count:
        below = train.global_batch_size // device_count * device_count
        raise UserError(
            f"config.train.global_batch_size: {train.global_batch_size} pairs cannot be split evenly over "
            f"{device_count} devices. Use a multiple of {device_count}, such as "
            f"--config.train.global_batch_size={below or device_count}."
        )
    _check_accumulation(config, preset, device_count)
    if config.evaluation.weights == "ema" and not config.optimizer.ema_decay:
        raise UserError(
            "config.evaluation.weights: ema needs an EMA of the weights; found config.optimizer.ema_decay=0. Use "
            "--config.optimizer.ema_decay=0.999, or --config.evaluation.weights=latest."
        )


def _check_attention(model: Mapping[str, Any], platform: str) -> None:
    if model["attention"] == "cudnn" and (model["dtype"] == "float32" or platform != "gpu"):
        raise UserError(
            f"config.model.attention: cudnn needs an NVIDIA GPU and a 16-bit dtype; found {platform} and "
            f"{model['dtype']}. Use --config.model.attention=auto, or on an NVIDIA GPU --config.model.dtype=bfloat16."
        )


def _check_accumulation(config: ConfigDict, preset: presets.Preset, device_count: int) -> None:
    count, rows = config.train.accumulation, config.train.global_batch_size // device_count
    if rows % count:
        fitting = max(number for number in range(1, count) if rows % number == 0)
        raise UserError(
            f"config.train.accumulation: the {rows} pairs of a device cannot be split evenly into {count} "
            f"micro-batches. Use --config.train.accumulation={fitting}, or another --config.train.global_batch_size."
        )
    if count == 1:
        return
    frozen = _frozen_encoders(Clip(preset), config.optimizer)
    for name, encoder in (("vision", preset.vision), ("text", preset.text)):
        if encoder.has_batch_statistics and name not in frozen:
            raise UserError(
                f"config.train.accumulation: expected 1, since {config.model.name} normalises by the statistics of the "
                f"whole batch; found {count}. Use --config.train.accumulation=1 with --config.model.remat=blocks, more "
                "devices, or a ViT preset."
            )


def _frozen_encoders(model: Clip, config: ConfigDict) -> tuple[str, ...]:
    """Returns the encoders without any trained parameter."""
    parameters = clip.abstract_variables(model)["params"]
    if config.lora:
        matrices = jax.eval_shape(lambda tree: lora.init(tree, config.lora, jax.random.key(0)), parameters)
        parameters = {**parameters, LORA: matrices}
    masks = optimizer.frozen_masks(parameters, config.frozen)
    adapted = {path[0] for path in lora.adapted(parameters)}
    trained = {name for name in masks if not all(mask.all() for mask in jax.tree.leaves(masks[name]))} | adapted
    return tuple(name for name in ("vision", "text") if (name if name in masks else "vision") not in trained)


def resolve(config: ConfigDict) -> ConfigDict:
    """Returns a complete copy of the settings with all model sizes filled in, so that reading it needs no preset."""
    complete = schema().complete(config)
    with complete.unlocked():
        complete.model = presets.resolved(complete.model)
    return complete


def resolve_dtype(config: ConfigDict, device: jax.Device) -> ConfigDict:
    """Returns the settings with ``model.dtype="auto"`` resolved to the faster dtype on a device.

    Args:
      config: checked settings, which are not changed.
      device: one of the devices that compute.
    """
    if config.model.dtype != "auto":
        return config
    resolved = config.copy_and_resolve_references()
    resolved.model.dtype = "bfloat16" if hardware.has_fast_bfloat16(device) else "float32"
    return resolved
