"""An evaluation: how far the released form of the ranking loss points in the direction of the exact one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from rankclip_jax.evaluation.evaluation import Data, Evaluation, ModelUnderTest
from rankclip_jax.evaluation.metric import Metric
from rankclip_jax.objectives.ranking import Variant, consistency

_PAIRS = 256


@dataclasses.dataclass(frozen=True)
class GradientAgreement(Evaluation):
    """Compares the gradients of both variants of the ranking terms, for the first 256 pairs and the learned scale."""

    def evaluate(self, model: ModelUnderTest, data: Data) -> list[Metric]:
        """Returns the cosine between both gradients by the embeddings, and the ratio of their norms."""
        embedded = model.embed(data.source, _PAIRS)
        pairs = embedded.image[:_PAIRS], embedded.first_text[:_PAIRS]
        exact, released = (_gradient(pairs, model.scale, variant) for variant in ("exact", "released"))
        norms = float(np.linalg.norm(exact)), float(np.linalg.norm(released))
        return [
            Metric("gradients/cosine", float(np.vdot(exact, released)) / (norms[0] * norms[1]), "correlation", None),
            Metric("gradients/released_to_exact", norms[1] / norms[0], "", None),
        ]


def _gradient(pairs: tuple[np.ndarray, np.ndarray], scale: float, variant: Variant) -> np.ndarray:
    def loss(embeddings: tuple[jax.Array, jax.Array]) -> jax.Array:
        cross_modal, in_modal = consistency(*embeddings, jnp.float32(scale), variant=variant)
        return cross_modal + in_modal

    return np.stack(jax.jit(jax.grad(loss))(pairs))
