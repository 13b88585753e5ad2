"""The parts of a run, put together once from its settings; nothing is read, written or computed."""

import dataclasses
import functools
from collections.abc import Mapping
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

_MODEL = ("vision", "text", "logit_scale")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What training and benchmarks are made of; its parts are built when first asked for.

    Args:
      config: the settings.
      layout: how state and batch lie on the devices.
      total_steps: length of the run in updates.
      examples: records of the training data.
    """

    config: ConfigDict
    layout: Layout
    total_steps: int
    examples: int

    @functools.cached_property
    def model(self) -> Clip:
        """Both encoders; those of which nothing is trained run as in evaluation."""
        model = clip.build(self.config.model, self.layout.mesh.devices.flat[0].platform)
        return model.clone(frozen=_frozen_encoders(model, self.config.optimizer))

    @functools.cached_property
    def objective(self) -> Objective:
        """The training objective, with its options."""
        return objectives.build(self.config.objective)

    def initial_objective_state(self) -> dict[str, jax.Array]:
        """What the objective remembers and does not learn, as it starts."""
        return self.objective.state(self.examples)

    @functools.cached_property
    def learning_rate(self) -> optax.Schedule:
        """The rate of each update."""
        return schedule.learning_rate(self.config.optimizer, self.total_steps)

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """From gradients to updates."""
        return optimizer.build(self.config.optimizer, self.learning_rate, self.abstract_variables()["params"])

    @functools.cached_property
    def frozen(self) -> Any:
        """Which parameters are not trained: for each a boolean, or where blocks are stacked one for each."""
        return optimizer.frozen_masks(self.abstract_variables()["params"], self.config.optimizer.frozen)

    def init_variables(self, key: jax.Array) -> Variables:
        """Freshly drawn weights, the objective's own beside the model's."""
        return self.with_objective_params(clip.init_variables(self.model, key), key)

    def with_objective_params(self, variables: Variables, key: jax.Array) -> Variables:
        """Weights of the model with the objective's own: kept where they are there, initialised where not."""
        given = variables["params"]
        model_only = {name: given[name] for name in _MODEL}
        own = {name: given.get(name, value) for name, value in self.objective.initial_parameters().items()}
        if ranks := self.config.optimizer.lora:
            own[LORA] = given[LORA] if LORA in given else lora.init(given, ranks, jax.random.fold_in(key, 2))
        new_head = given.get(HEAD) or head.init(self.objective, self.model, variables, jax.random.fold_in(key, 1))
        if new_head is not None:
            own[HEAD] = new_head
        return variables | {"params": model_only | own}

    def abstract_variables(self) -> Variables:
        """The shapes and types of the weights, without computing them."""
        return jax.eval_shape(lambda: self.init_variables(jax.random.key(0)))

    def with_scalars(self, outputs: Outputs, parameters: optax.Params) -> Outputs:
        """The model's outputs with what the objective learns among the scalars."""
        own = {name: parameters[name] for name in self.objective.parameters()}
        return outputs._replace(scalars=outputs.scalars | own)


def build_experiment(config: ConfigDict, mesh: Mesh, total_steps: int, examples: int = 0) -> Experiment:
    """The parts of the run that the settings describe, on a mesh.

    Args:
      config: checked settings; what they leave to the device is decided here, once.
      mesh: the devices.
      total_steps: length of the run in updates.
      examples: records of the training data.
    """
    layout = Layout(mesh, tuple((pattern, dimension) for pattern, dimension in config.mesh.overrides))
    return Experiment(resolve_dtype(config, mesh.devices.flat[0]), layout, total_steps, examples)


def check(config: ConfigDict, device_count: int, platform: str | None = None) -> None:
    """Raises UserError for settings that no run can have, naming the flag that fixes it.

    Args:
      config: the settings.
      device_count: of all processes.
      platform: ``"gpu"``, ``"tpu"`` or ``"cpu"``; None: the one that is here.
    """
    validation.check(config)
    preset = presets.preset_of(config.model)
    ids = TOKENIZERS[config.model.tokenizer].vocabulary_size
    if preset.text.vocabulary_size < ids:
        raise UserError(
            f"config.model.text.vocabulary_size: expected at least the {ids:,} ids of the tokenizer "
            f"{config.model.tokenizer!r}; found {preset.text.vocabulary_size:,}."
        )
    _check_attention(config.model, platform or jax.default_backend())
    train = config.train
    if config.objective.name in OBJECTIVES and config.objective.list_size > train.global_batch_size:
        raise UserError(
            f"config.objective.list_size: expected 0 (all) to {train.global_batch_size}, the batch; "
            f"found {config.objective.list_size}."
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
            "config.evaluation.weights: the run keeps no average of the weights. Use "
            "--config.optimizer.ema_decay=0.999 to keep one, or --config.evaluation.weights=latest."
        )


def _check_attention(model: Mapping[str, Any], platform: str) -> None:
    if model["attention"] == "cudnn" and (model["dtype"] == "float32" or platform != "gpu"):
        raise UserError(
            f"config.model.attention: cudnn needs an NVIDIA GPU and a 16-bit type; found {platform} and "
            f"{model['dtype']}. Use --config.model.attention=auto, or add --config.model.dtype=bfloat16 on such a GPU."
        )


def _check_accumulation(config: ConfigDict, preset: presets.Preset, device_count: int) -> None:
    count, rows = config.train.accumulation, config.train.global_batch_size // device_count
    if rows % count:
        fitting = max(number for number in range(1, count) if rows % number == 0)
        raise UserError(
            f"config.train.accumulation: the {rows} pairs of a device cannot be split evenly into {count} "
            f"micro-batches. Use --config.train.accumulation={fitting}, or another batch."
        )
    if count == 1:
        return
    frozen = _frozen_encoders(Clip(preset), config.optimizer)
    for name, encoder in (("vision", preset.vision), ("text", preset.text)):
        if encoder.has_batch_statistics and name not in frozen:
            raise UserError(
                f"config.train.accumulation: {config.model.name} normalises by the statistics of the whole batch, "
                f"which {count} micro-batches do not have: they would train another model. Use "
                "--config.train.accumulation=1 and --config.model.remat=blocks, or more devices, or a ViT preset."
            )


def _frozen_encoders(model: Clip, config: ConfigDict) -> tuple[str, ...]:
    """The encoders of which nothing is trained."""
    parameters = clip.abstract_variables(model)["params"]
    if config.lora:
        matrices = jax.eval_shape(lambda tree: lora.init(tree, config.lora, jax.random.key(0)), parameters)
        parameters = {**parameters, LORA: matrices}
    masks = optimizer.frozen_masks(parameters, config.frozen)
    adapted = {path[0] for path in lora.adapted(parameters)}
    frozen = {name for name in ("vision", "text") if all(mask.all() for mask in jax.tree.leaves(masks[name]))}
    return tuple(sorted(frozen - adapted))


def resolve(config: ConfigDict) -> ConfigDict:
    """A copy of the settings that lacks nothing, and says all sizes of the model: reading the run needs no table."""
    complete = schema().complete(config)
    with complete.unlocked():
        complete.model = presets.resolved(complete.model)
    return complete


def resolve_dtype(config: ConfigDict, device: jax.Device) -> ConfigDict:
    """The settings with what they leave to the device decided: ``model.dtype`` is a type, where it was ``"auto"``.

    Args:
      config: checked settings; they stay as they are.
      device: one of those that compute.
    """
    if config.model.dtype != "auto":
        return config
    resolved = config.copy_and_resolve_references()
    resolved.model.dtype = "bfloat16" if hardware.has_fast_bfloat16(device) else "float32"
    return resolved
