"""CLIP plus ranking consistency by ListNet (Cao et al., ICML 2007), within and across modalities.

ListNet is the cross-entropy of the probabilities of each column to rank first, by relevance ``y`` and by score ``p``:

    ListNet(p by y) = - sum_j softmax(y)_j log softmax(p)_j
    L = L_clip + w(progress) (lambda_cross L_cross + lambda_in L_in)

The lists are those of RankCLIP (`ranking`): ``L_cross`` and ``L_in`` are means over both of their lists and all rows.
Scores are similarities at the scale ``s``, relevance is the other similarity at a separate scale ``s_q``, fixed by
default since the learned scale grows to 100, where the targets become one-hot. No gradient flows through relevance.
Unlike the Plackett-Luce likelihood of RankCLIP, ListNet needs no sort, and most weight is on the top of the list.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from rankclip_jax.input_pipeline.setting import FRACTION, WEIGHT, Each, setting
from rankclip_jax.objectives import clip, schedules
from rankclip_jax.objectives.objective import Metrics, ScaleChoice, Step, chosen_scale
from rankclip_jax.objectives.pairwise import Scalars, Similarities
from rankclip_jax.objectives.ranking import CROSS_MODAL, IN_MODAL, List
from rankclip_jax.objectives.softclip import SoftTargets


@dataclasses.dataclass(frozen=True)
class ListNet(SoftTargets):
    """CLIP's loss, second views included (see `clip`), plus the ramped ListNet terms."""

    lambda_cross: float = setting(1.0, "weight of the cross-modal ranking term", WEIGHT)
    lambda_in: float = setting(1.0, "weight of the in-modal ranking term", WEIGHT)
    ranking_scale: str = setting(
        "learned",
        "scale of ranked similarities: `learned`, `learned_without_gradient`, or a number such as 14.3",
        ScaleChoice(),
    )
    listnet_ramp: tuple[float, float, float] = setting(
        (0.0, 0.5, 2 / 3),
        "ranking weight: start, end, fraction of training at which the end is reached",
        Each(WEIGHT, WEIGHT, FRACTION),
    )

    def scheduled(self, step: Step) -> Scalars:
        """Returns the ranking weight ``w`` of the ramp."""
        return {"ranking_weight": schedules.ramp(step.progress, *self.listnet_ramp)}

    def row_loss(self, similarity: Similarities, scalars: Scalars) -> tuple[jax.Array, Metrics]:
        """Returns each pair's sum of the three weighted terms."""
        contrastive, metrics = clip.contrastive_rows(similarity, scalars["scale"])
        scale = chosen_scale(self.ranking_scale, scalars["scale"])
        target_scale = chosen_scale(self.target_scale, scalars["scale"])

        def term(lists: Sequence[List]) -> jax.Array:
            losses = [
                listnet(scale * similarity(*scored), target_scale * similarity(*ordering)) for scored, ordering in lists
            ]
            return sum(losses, jnp.zeros_like(contrastive)) / len(lists)

        cross_modal, in_modal = term(CROSS_MODAL), term(IN_MODAL)
        ranking_loss = self.lambda_cross * cross_modal + self.lambda_in * in_modal
        return contrastive + scalars["ranking_weight"] * ranking_loss, metrics | {
            "cross_modal": cross_modal,
            "in_modal": in_modal,
        }


def listnet(scores: jax.Array, relevance: jax.Array) -> jax.Array:
    """Returns the top-one cross-entropy of each row: ``[rows]``, in nats.

    Args:
      scores: ``[rows, n]``; gradients flow.
      relevance: ``[rows, n]``; no gradient flows.
    """
    target = jax.nn.softmax(jax.lax.stop_gradient(relevance), axis=-1)
    return jax.nn.logsumexp(scores, axis=-1) - jnp.sum(target * scores, axis=-1)
