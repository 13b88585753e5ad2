"""What an objective is given, and what it provides: the seam between models and training methods.

An objective is one file: a subclass of `Objective`, or of `pairwise.PairwiseObjective`, and a row in ``__init__.py``,
or ``config.objective.name="package.module:Name"``.
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

LARGEST_SCALE = 1000  # ten times what CLIP's is clamped to


@dataclasses.dataclass(frozen=True)
class Step:
    """When and where a loss is computed.

    Args:
      progress: fraction of training done, ``[]`` in [0, 1].
      key: the step's PRNG key: it orders columns and so breaks ties, the same on every device; None: in their own
        order.
      mesh: the devices that share the batch, split over all its axes; None: no sharding.
      state: what the objective remembers, by name; see `Objective.initial_state`.
      sample: each pair's number in the training data, int32 ``[B]``; None for objectives that remember nothing.
    """

    progress: jax.Array | float
    key: jax.Array | None
    mesh: Mesh | None = None
    state: Mapping[str, jax.Array] = dataclasses.field(default_factory=dict)
    sample: jax.Array | None = None


class LossResult(NamedTuple):
    """What an objective returns.

    Args:
      loss: scalar, over the global batch.
      metrics: scalars to log, by name.
      state: what the objective remembers after the step, all of it; empty where it remembers nothing.
    """

    loss: jax.Array
    metrics: Metrics
    state: Mapping[str, jax.Array] = {}  # never changed


@dataclasses.dataclass(frozen=True)
class Objective(Settings, abc.ABC):
    """A training method: a frozen dataclass of its options, each a `setting` under ``config.objective``.

    A subclass checks in ``__post_init__`` which values it cannot have, and raises UserError.
    """

    section = "objective"

    # What it reads beside the pooled embeddings of images and texts.
    needs_tokens: ClassVar[bool] = False  # the features of each patch and token, in ``outputs.tokens``

    @property
    def needs_second_views(self) -> bool:
        """Whether batches hold augmented views too, ``image_augmented`` and ``text_augmented``."""
        return False

    @abc.abstractmethod
    def loss(self, outputs: Outputs, step: Step) -> LossResult:
        """The loss over the global batch; a pure function."""

    def parameters(self) -> Mapping[str, Any]:
        """Numbers or arrays that are learned beside the model, by name with their initial values.

        They are trained, saved and resumed with the model's, never decayed, and found in ``outputs.scalars``.
        """
        return {}

    def head(self, embedding_size: int) -> nn.Module | None:
        """A module that is trained, sharded and saved with the model: ``(outputs, batch) -> {name: [B, ...]}``.

        It is applied to each device's rows of the model's outputs and of the batch. What it returns is found in
        ``outputs.head``. None: there is none.
        """
        del embedding_size
        return None

    def initial_state(self, examples: int) -> Mapping[str, Any]:
        """What is remembered from step to step and not learned, by name, such as a normaliser for each training pair.

        `loss` finds it in ``step.state`` and returns all of it, as it is after the step. It is saved and resumed.
        """
        del examples
        return {}

    @property
    def is_stateful(self) -> bool:
        """Whether it remembers anything, and so needs to know which samples it sees."""
        return type(self).initial_state is not Objective.initial_state

    def state(self, examples: int) -> dict[str, jax.Array]:
        """`initial_state` as arrays."""
        return {name: jnp.asarray(value) for name, value in self.initial_state(examples).items()}

    def initial_parameters(self) -> dict[str, np.ndarray]:
        """`parameters` as float32 arrays."""
        return {name: np.asarray(value, np.float32) for name, value in self.parameters().items()}

    def final_loss(self, outputs: Outputs, key: jax.Array, mesh: Mesh | None) -> LossResult:
        """The loss as at the end of training, for pairs that are not of the training data."""
        count = len(outputs.embeddings["image"])
        return self.loss(outputs, Step(1.0, key, mesh, self.state(count), jnp.arange(count)))


@dataclasses.dataclass(frozen=True)
class ScaleChoice:
    """What similarities are multiplied by: the learned scale, with or without its gradient, or a number."""

    def __str__(self) -> str:
        return f"learned, learned_without_gradient or a number above 0 and at most {LARGEST_SCALE}"

    def check(self, flag: str, choice: Any) -> None:
        """Raises UserError for anything else."""
        if choice in ("learned", "learned_without_gradient"):
            return
        try:
            number = float(choice)
        except ValueError:
            number = math.nan
        if not 0 < number <= LARGEST_SCALE:
            raise UserError(f"{flag}: expected {self}; found {choice!r}.")


def chosen_scale(choice: str, learned: jax.Array) -> jax.Array:
    """What similarities are multiplied by: the learned scale, the same without its gradient, or a number.

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
