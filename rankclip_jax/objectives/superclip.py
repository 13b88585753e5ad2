"""SuperCLIP (2025, arXiv 2512.14480): CLIP's loss, and the words of its caption predicted from each image.

A linear layer on the mean of the image's patch features gives a logit for each token of the vocabulary. With ``y_c``
whether a token is in the caption, and its weight ``w_c = log(N / (1 + n_c))``, ``n_c`` of the N captions seen so far
having it,

    L = L_clip + classification_weight L_class
    L_class = -sum_c t_c log softmax(logits)_c,   t_c = w_c y_c / sum_k w_k y_k

as in SuperClass (Huang et al., 2024). The paper counts words over the whole dataset beforehand; here the counts are a
part of the training state. Tokens of every caption, such as padding and the ends, have weight 0.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rankclip_jax.input_pipeline.setting import WEIGHT, Range, setting
from rankclip_jax.models.clip import Outputs
from rankclip_jax.objectives import clip
from rankclip_jax.objectives.objective import LossResult, Step


class TokenClassifier(nn.Module):
    """Returns the log probability of each token of a row's caption, ``[B, L]``, and the tokens."""

    vocabulary: int

    @nn.compact
    def __call__(self, outputs: Outputs, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Classifies the mean of the patch features ``[B, L, W]``."""
        pooled = jnp.mean(outputs.tokens["image"].astype(jnp.float32), axis=1)
        logits = nn.Dense(self.vocabulary, name="words")(pooled)
        token = batch["text"] % self.vocabulary
        own = jnp.take_along_axis(logits, token, axis=-1)
        return {"log_probability": own - jax.nn.logsumexp(logits, axis=-1, keepdims=True), "token": token}


@dataclasses.dataclass(frozen=True)
class SuperClip(clip.Clip):
    """CLIP's loss, second views included (see `clip`), plus the classification of each image's words."""

    needs_tokens = True

    classification_weight: float = setting(1.0, "weight of the classification of words", WEIGHT)
    vocabulary: int = setting(49_408, "classes of words; token ids beyond are taken modulo", Range(2, 2**20))

    def head(self, embedding_size: int) -> nn.Module:
        """Returns the linear classifier."""
        del embedding_size
        return TokenClassifier(self.vocabulary)

    def initial_state(self, examples: int) -> Mapping[str, Any]:
        """Returns the number of captions with each token, and of all captions."""
        del examples
        return {"captions_with_token": np.zeros(self.vocabulary, np.int32), "captions": np.zeros((), np.int32)}

    def loss(self, outputs: Outputs, step: Step) -> LossResult:
        """Computes CLIP's loss and the classification over the global batch, and counts the batch's words."""
        result = super().loss(outputs, step)
        token, log_probability = outputs.head["token"], outputs.head["log_probability"]
        is_first = _first_occurrences(token)
        counts = step.state["captions_with_token"].at[token].add(is_first.astype(jnp.int32))
        total = step.state["captions"] + len(token)
        rarity = jnp.maximum(jnp.log(total / (1 + counts[token])), 0) * is_first
        target = rarity / jnp.maximum(rarity.sum(axis=1, keepdims=True), jnp.finfo(rarity.dtype).tiny)
        words = -jnp.sum(target * log_probability, axis=1).mean()
        return LossResult(
            result.loss + self.classification_weight * words,
            {**result.metrics, "classification": words},
            {"captions_with_token": counts, "captions": total},
        )


def _first_occurrences(token: jax.Array) -> jax.Array:
    """Returns where a token occurs for the first time in its row: bool ``[B, L]``."""
    length = token.shape[1]
    return ~jnp.any((token[:, :, None] == token[:, None, :]) & np.tri(length, k=-1, dtype=bool), axis=-1)
