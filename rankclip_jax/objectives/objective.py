"""What an objective is given, and what a file of this folder provides: the seam between models and methods."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Protocol, Self

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.models.clip import Outputs

Metrics = dict[str, jax.Array]

LARGEST_SCALE = 1000  # ten times what CLIP's is clamped to


@dataclasses.dataclass(frozen=True)
class Step:
    """When and where a loss is computed.

    Args:
      progress: share of training done, ``[]`` in [0, 1].
      key: the step's PRNG key: it orders columns and so breaks ties, the same on every device; None: in
        their own order.
      mesh: the devices that share the batch, split over all its axes; None: no sharding.
      state: what the method is_stateful, by name; see `Objective`.
      sample: each pair's number in the training data, int32 ``[B]``; None for methods that remember nothing.
    """

    progress: jax.Array | float
    key: jax.Array | None
    mesh: Mesh | None = None
    state: Mapping[str, jax.Array] = dataclasses.field(default_factory=dict)
    sample: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Options:
    """The settings under ``config.objective`` that a method reads; a method with more of them adds fields.

    Args:
      chunk_size: rows that a device handles at once; 0: by a memory budget.
      precision: how similarities are computed, a key of `products.PRECISIONS`, or ``"auto"``.

    Raises:
      UserError: by `from_settings`, for values that the method cannot have; it names the setting.
    """

    chunk_size: int = 0
    precision: str = "auto"

    @classmethod
    def from_settings(cls, config: ConfigDict) -> Self:
        """Takes the fields from the settings of their names under ``config.objective``."""
        values: dict[str, Any] = {field.name: config[field.name] for field in dataclasses.fields(cls)}
        plain: Any = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return cls(**plain)


class Objective(Protocol):
    """A file of this folder: a function `loss`, and where it needs them `Options`, `PARAMETERS` and `initial_state`.

    ``PARAMETERS`` are numbers or arrays by name, with their initial values: learned with the model's, saved and resumed
    with them, never decayed, and handed to `loss` in ``outputs.scalars`` under their names.

    ``initial_state(options, examples)`` gives, by name, what a method is_stateful from step to step and does not learn,
    such as a running normaliser for each of the ``examples`` of the training data: saved and resumed with the rest.
    `loss` finds it in ``step.state`` and returns all of it, as it is after the step, among the metrics.
    """

    def loss(self, outputs: Outputs, options: Any, step: Step) -> tuple[jax.Array, Metrics]:
        """The loss over the global batch and metrics by name, scalars; a pure function."""
        ...


def parameters_of(objective: Objective) -> Mapping[str, Any]:
    """The initial values of what a method learns beside the model; most learn nothing."""
    return getattr(objective, "PARAMETERS", {})


def state_of(objective: Objective, options: Options, examples: int) -> dict[str, jax.Array]:
    """What a method is_stateful at the start of a run over so many examples; most remember nothing."""
    if not hasattr(objective, "initial_state"):
        return {}
    return {name: jnp.asarray(value) for name, value in objective.initial_state(options, examples).items()}


def options_of(objective: Objective, config: ConfigDict) -> Options:
    """The method's options, made from the settings under ``config.objective`` and checked.

    Raises:
      UserError: the method cannot have these values.
    """
    return getattr(objective, "Options", Options).from_settings(config)


def check_scale(flag: str, choice: str) -> None:
    """Raises UserError, naming the flag, unless the choice is one that `chosen_scale` knows."""
    if choice in ("learned", "learned_without_gradient"):
        return
    try:
        number = float(choice)
    except ValueError:
        number = math.nan
    if not 0 < number <= LARGEST_SCALE:
        raise UserError(
            f"{flag}: expected learned, learned_without_gradient or a number above 0 and at most {LARGEST_SCALE}; "
            f"found {choice!r}."
        )


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
