"""The interface of an objective: its inputs and its outputs, between models and training methods.

An objective is one file with a subclass of `Objective` or of `pairwise.PairwiseObjective`. Register it with a row in
``__init__.py``, or select it with ``config.objective.name="package.module:Name"``.
"""

import abc
import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.setting import Settings
from rankclip_jax.models.clip import Outputs

Metrics = dict[str, jax.Array]

LARGEST_SCALE = 1000  # ten times the value to which CLIP clamps its scale


@dataclasses.dataclass(frozen=True)
class Step:
    """The context in which a loss is computed.

    Args:
      progress: fraction of training done, ``[]`` in [0, 1].
      key: the step's PRNG key, the same on every device: it permutes the columns and so breaks ties at random; None:
        columns keep their order.
      mesh: the devices over which the batch is sharded, along all mesh axes; None: no sharding.
      state: the objective's state, by name; see `Objective.initial_state`.
      sample: each pair's index in the training data, int32 ``[B]``; None for stateless objectives.
    """

    progress: jax.Array | float
    key: jax.Array | None
    mesh: Mesh | None = None
    state: Mapping[str, jax.Array] = dataclasses.field(default_factory=dict)
    sample: jax.Array | None = None


class LossResult(NamedTuple):
    """The result of an objective.

    Args:
      loss: scalar, over the global batch.
      metrics: scalars to log, by name.
      state: the objective's complete state after the step; empty for stateless objectives.
    """

    loss: jax.Array
    metrics: Metrics
    state: Mapping[str, jax.Array] = {}  # never changed


@dataclasses.dataclass(frozen=True)
class Objective(Settings, abc.ABC):
    """A training objective: a frozen dataclass of its options, each a `setting` under ``config.objective``.

    A subclass validates its options in ``__post_init__`` and raises UserError for unsupported values.
    """

    section = "objective"

    # Inputs besides the pooled embeddings of images and texts.
    needs_tokens: ClassVar[bool] = False  # the features of each patch and token, in ``outputs.tokens``

    needs_teacher: ClassVar[bool] = False  # the embeddings of the models that `teachers` names

    @property
    def teachers(self) -> tuple[str, ...]:
        """The paths of the teachers, whose embeddings are views of a batch; see `teacher.TeacherOptions`."""
        return ()

    @property
    def needs_second_views(self) -> bool:
        """Whether batches hold augmented views too, ``image_augmented`` and ``text_augmented``."""
        return False

    @property
    def needs_captions(self) -> bool:
        """Whether outputs hold a digest of each caption, so that equal captions are recognised."""
        return False

    @abc.abstractmethod
    def loss(self, outputs: Outputs, step: Step) -> LossResult:
        """Computes the loss over the global batch; a pure function."""

    def parameters(self) -> Mapping[str, Any]:
        """Returns the initial values, by name, of numbers or arrays that are learned with the model.

        They are trained, saved and restored with the model's parameters, never decayed, and passed to `loss` in
        ``outputs.scalars``.
        """
        return {}

    def head(self, embedding_size: int) -> nn.Module | None:
        """Returns a module that is trained with the model, ``(outputs, batch) -> {name: [B, ...]}``; None: no module.

        Its parameters are sharded and saved with the model's. It is applied to each device's rows of the model's
        outputs and of the batch; its results are passed to `loss` in ``outputs.head``.
        """
        del embedding_size
        return None

    def initial_state(self, examples: int) -> Mapping[str, Any]:
        """Returns the initial state that is carried between steps but not learned, by name.

        An example is a normaliser for each training pair. `loss` reads it from ``step.state`` and returns the complete
        state after the step. It is saved and restored with checkpoints.
        """
        del examples
        return {}

    @property
    def is_stateful(self) -> bool:
        """Whether the objective has a state, and so needs the indices of a batch's samples."""
        return type(self).initial_state is not Objective.initial_state

    def state(self, examples: int) -> dict[str, jax.Array]:
        """Returns `initial_state` as arrays."""
        return {name: jnp.asarray(value) for name, value in self.initial_state(examples).items()}

    def initial_parameters(self) -> dict[str, np.ndarray]:
        """Returns `parameters` as float32 arrays."""
        return {name: np.asarray(value, np.float32) for name, value in self.parameters().items()}

    def final_loss(self, outputs: Outputs, key: jax.Array, mesh: Mesh | None) -> LossResult:
        """Computes the loss at the end of training, for pairs outside the training data."""
        count = len(outputs.embeddings["image"])
        return self.loss(outputs, Step(1.0, key, mesh, self.state(count), jnp.arange(count)))


@dataclasses.dataclass(frozen=True)
class ScaleChoice:
    """The values of a setting for the scale of similarities: learned, with or without its gradient, or a number."""

    def __str__(self) -> str:
        return f"learned, learned_without_gradient or a number above 0 and at most {LARGEST_SCALE}"

    def check(self, flag: str, choice: Any) -> None:
        """Raises UserError for any other value."""
        if choice in ("learned", "learned_without_gradient"):
            return
        try:
            number = float(choice)
        except ValueError:
            number = math.nan
        if not 0 < number <= LARGEST_SCALE:
            raise UserError(f"{flag}: expected {self}; found {choice!r}.")


def chosen_scale(choice: str, learned: jax.Array) -> jax.Array:
    """Returns the multiplier of similarities: the learned scale, the same without its gradient, or a number.

    Args:
      choice: ``"learned"``, ``"learned_without_gradient"`` or a number such as ``"14.3"``.
      learned: the logit scale ``s``, ``[]``.
    """
    match choice:
        case "learned":
            return learned
        case "learned_without_gradient":
            return jax.lax.stop_gradient(learned)
        case number:
            return jnp.full_like(learned, float(number))
