"""An evaluation: how far the released form of the ranking loss points in the direction of the exact one."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from rankclip_jax.evaluation.evaluation import Data, Evaluation, ModelUnderTest
from rankclip_jax.evaluation.metric import Metric
from rankclip_jax.objectives.ranking import Variant, consistency

_PAIRS = 256
_VARIANTS: tuple[Variant, Variant] = ("exact", "released")


@dataclasses.dataclass(frozen=True)
class GradientAgreement(Evaluation):
    """Compares the gradients of both variants of the ranking terms, for the first 256 pairs and the learned scale."""

    def evaluate(self, model: ModelUnderTest, data: Data) -> list[Metric]:
        """Returns the cosine between both gradients by the embeddings, and the ratio of their norms."""
        embedded = model.embed(data.source, _PAIRS)
        pairs = embedded.image[:_PAIRS], embedded.first_text[:_PAIRS]
        exact, released = (np.asarray(_gradient(pairs, model.scale, variant)) for variant in _VARIANTS)
        norms = float(np.linalg.norm(exact)), float(np.linalg.norm(released))
        return [
            Metric("gradients/cosine", float(np.vdot(exact, released)) / (norms[0] * norms[1]), "correlation", None),
            Metric("gradients/released_to_exact", norms[1] / norms[0], "", None),
        ]


@functools.partial(jax.jit, static_argnames="variant")
def _gradient(pairs: tuple[jax.Array, jax.Array], scale: float, variant: Variant) -> jax.Array:
    def loss(embeddings: tuple[jax.Array, jax.Array]) -> jax.Array:
        return sum(consistency(*embeddings, jnp.float32(scale), variant=variant), jnp.float32(0))

    return jnp.stack(jax.grad(loss)(pairs))
